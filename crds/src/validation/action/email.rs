//! The rules for an email that its schema cannot say.

use crate::config::{EmailConfig, SmtpConfig, SmtpTls};
use crate::manifest::diagnostics::field;
use crate::v1alpha1::{Email, Smtp};
use crate::validation::context::ValidationContext;
use crate::validation::names::is_domain;

/// Turns an email into what is sent, with placeholders for what it reports.
pub(super) fn check(at: &str, email: &Email, context: &mut ValidationContext<'_>) -> EmailConfig {
    if email.text.is_none() && email.html.is_none() {
        context.missing_field(
            at,
            &["text", "html"],
            "says nothing; give `text`, `html` or both",
        );
    }
    EmailConfig {
        smtp: smtp(&field(at, "smtp"), &email.smtp, context),
        from: email.from.clone(),
        to: email.to.clone(),
        cc: email.cc.clone(),
        bcc: email.bcc.clone(),
        reply_to: email.reply_to.clone(),
        subject: email.subject.clone(),
        text: email.text.clone(),
        html: email.html.clone(),
    }
}

fn smtp(at: &str, smtp: &Smtp, context: &mut ValidationContext<'_>) -> SmtpConfig {
    let host = smtp.host.to_ascii_lowercase();
    let address = host.parse::<std::net::IpAddr>().is_ok();
    if !is_domain(&host) && !address {
        context.error(
            &field(at, "host"),
            "is neither a name nor an address; write one such as smtp.example.com, without scheme and port",
        );
    }
    let mut resolve = |name: &str, source: &Option<crate::v1alpha1::ValueSource>| {
        let source = source.as_ref()?;
        context
            .resolve(&field(at, name), source)
            .map(|(_, value)| value)
    };
    let ca = resolve("ca", &smtp.ca);
    let username = resolve("username", &smtp.username);
    let password = resolve("password", &smtp.password);
    if smtp.username.is_some() != smtp.password.is_some() {
        context.error(at, "must have both `username` and `password`, or neither");
    }
    if smtp.tls == SmtpTls::None && smtp.password.is_some() {
        context.error(
            &field(at, "tls"),
            "would send the password in the clear; make it StartTls or Implicit, or leave out user and password",
        );
    }
    SmtpConfig {
        host,
        port: smtp.port.unwrap_or(match smtp.tls {
            SmtpTls::Implicit => 465,
            SmtpTls::StartTls => 587,
            SmtpTls::None => 25,
        }),
        tls: smtp.tls,
        ca,
        login: username.zip(password),
    }
}
