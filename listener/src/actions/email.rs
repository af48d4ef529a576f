//! Email actions, by SMTP.
//!
//! The `Message-ID` is the delivery's id, the same on every attempt. If one of the recipients is
//! refused, nobody gets the message, so that nobody gets it twice.
//!
//! A rendered value is one mailbox or none, whatever it holds: its name is quoted, and what is no address
//! is refused.
//!
//! Each message has a connection of its own: one whose answer came too late would be taken for the
//! answer to the next.

mod address;
mod server;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use crds::config::EmailConfig;
use lettre::Message;
use lettre::address::Envelope;
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder, MultiPart, SinglePart};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::server::{SmtpSendError, SmtpServer};
use super::deliver_action::{
    ActionDefinition, AttemptRequest, CompileContext, DeliverAction, Preview, Transmission,
};
use super::template_source::{TemplateSource, TemplateSources};
use crate::delivery::Delivery;
use crate::delivery::failure::{Failure, FailureKind};
use crate::egress::policy::EgressPolicy;
use crate::egress::redaction::Secrets;
use crate::egress::response::DeliveryError;
use crate::templating::compile_error::CompileError;
use crate::templating::context::RenderInput;
use crate::templating::output::Format;
use crate::templating::template::Template;

/// Most connections of one action; others wait.
const MAX_CONNECTIONS: usize = 4;

/// Most recipients of one message.
const MAX_RECIPIENTS: usize = 100;

/// Longest subject, in characters.
const MAX_SUBJECT: usize = 900;

/// Adds a recipient of one kind.
type Adds = fn(MessageBuilder, Mailbox) -> MessageBuilder;

/// Compiled email.
pub(super) struct Email {
    server: SmtpServer,
    from: Template,
    to: Vec<Recipient>,
    cc: Vec<Recipient>,
    bcc: Vec<Recipient>,
    reply_to: Option<Template>,
    subject: Template,
    text: Option<Template>,
    html: Option<Template>,
    connections: Semaphore,
}

/// Header that suppresses automatic replies (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

impl Email {
    fn compile(config: &EmailConfig) -> Result<Self, CompileError> {
        let one =
            |place: &str, source: &str| Template::compile(place.to_owned(), source, Format::Text);
        let some = |place: &str, source: &Option<String>, format| {
            Template::optional(place, source.as_deref(), format)
        };
        fixed("email.from", &config.from)?;
        fixed(
            "email.replyTo",
            config.reply_to.as_deref().unwrap_or_default(),
        )?;
        Ok(Self {
            server: SmtpServer::compile(&config.smtp)?,
            from: one("email.from", &config.from)?,
            to: Recipient::all("email.to", &config.to)?,
            cc: Recipient::all("email.cc", &config.cc)?,
            bcc: Recipient::all("email.bcc", &config.bcc)?,
            reply_to: some("email.replyTo", &config.reply_to, Format::Text)?,
            subject: one("email.subject", &config.subject)?,
            text: some("email.text", &config.text, Format::Text)?,
            html: some("email.html", &config.html, Format::Html)?,
            connections: Semaphore::new(MAX_CONNECTIONS),
        })
    }

    async fn send(&self, egress: &EgressPolicy, message: Message) -> Result<(), SmtpSendError> {
        // The semaphore is never closed.
        let _permit = self.connections.acquire().await;
        let mut connection = self.server.connect(egress).await?;
        let (envelope, message) = (message.envelope(), message.formatted());
        connection.send(envelope, &message).await?;
        connection.abort().await;
        Ok(())
    }

    fn message(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<Message, Failure> {
        let subject = RenderInput::new(delivery);
        let from = mailbox(&self.from, &subject)?;
        let mut builder = Message::builder()
            .message_id(Some(message_id(delivery, &from)))
            .date(now.into())
            .header(AutoSubmitted)
            .from(from.clone())
            .subject(line(&self.subject, &subject)?);
        let mut addresses = Vec::new();
        let kinds: [(&[Recipient], Option<Adds>); 3] = [
            (&self.to, Some(MessageBuilder::to)),
            (&self.cc, Some(MessageBuilder::cc)),
            // Not in the headers.
            (&self.bcc, None),
        ];
        for (recipients, add) in kinds {
            for recipient in recipients {
                let Some(mailbox) = recipient.render(&subject)? else {
                    continue;
                };
                addresses.push(mailbox.email.clone());
                if let Some(add) = add {
                    builder = add(builder, mailbox);
                }
            }
        }
        let count = addresses.len();
        if !(1..=MAX_RECIPIENTS).contains(&count) {
            let message = format!(
                "the message has {count} recipients, and must have 1 to {MAX_RECIPIENTS}: see to email.to, cc and bcc"
            );
            return Err(Failure::of(FailureKind::Template, message));
        }
        let unwritten = |error: &dyn std::fmt::Display| {
            let message = format!("the email cannot be written: {error}");
            Failure::of(FailureKind::Template, message)
        };
        let envelope = Envelope::new(Some(from.email), addresses);
        builder = builder.envelope(envelope.map_err(|error| unwritten(&error))?);
        if let Some(reply_to) = &self.reply_to {
            builder = builder.reply_to(mailbox(reply_to, &subject)?);
        }
        let body = |template: &Option<Template>| {
            let template = template.as_ref();
            let text = template.map(|template| template.render(&subject));
            text.transpose().map(|text| text.map(|text| lines(&text)))
        };
        let (text, html) = (body(&self.text)?, body(&self.html)?);
        let made = match (text, html) {
            (Some(text), Some(html)) => {
                builder.multipart(MultiPart::alternative_plain_html(text, html))
            }
            (None, Some(html)) => builder.singlepart(SinglePart::html(html)),
            (text, None) => builder
                .header(ContentType::TEXT_PLAIN)
                .body(text.unwrap_or_default()),
        };
        made.map_err(|error| unwritten(&error))
    }
}

impl ActionDefinition for EmailConfig {
    fn name(&self) -> &'static str {
        "email"
    }

    fn address_field(&self) -> &'static str {
        "email.smtp.host"
    }

    fn compile(&self, _: CompileContext<'_>) -> Result<Arc<dyn DeliverAction>, CompileError> {
        Ok(Arc::new(Email::compile(self)?))
    }

    fn templates(&self) -> Vec<TemplateSource<'_>> {
        TemplateSources::default()
            .text("email.from", &self.from)
            .texts("email.to", &self.to)
            .texts("email.cc", &self.cc)
            .texts("email.bcc", &self.bcc)
            .text("email.replyTo", &self.reply_to)
            .text("email.subject", &self.subject)
            .text("email.text", &self.text)
            .text("email.html", &self.html)
            .into_vec()
    }

    fn secrets(&self, secrets: &mut Secrets) {
        if let Some((user, password)) = &self.smtp.login {
            secrets.login(user, password);
        }
    }
}

impl DeliverAction for Email {
    fn endpoint(&self) -> Option<(&str, &str)> {
        Some((&self.server.key, &self.server.address))
    }

    fn preview(&self, delivery: &Delivery, now: DateTime<Utc>) -> Result<Preview, Failure> {
        let message = self.message(delivery, now)?.formatted();
        let text = String::from_utf8_lossy(&message).replace('\r', "");
        Ok(vec![(format!("by {}", self.server.address), text)])
    }

    fn attempt<'a>(&'a self, request: AttemptRequest<'a>) -> Result<Transmission<'a>, Failure> {
        let message = self.message(request.delivery, request.now)?;
        Ok(Transmission::of(
            self.send(&request.runtime.egress, message),
        ))
    }

    fn explain(&self, error: DeliveryError, begun: Instant) -> DeliveryError {
        self.server.fault.explain(error, begun)
    }
}

/// Returns the `Message-ID`, the same for all attempts.
fn message_id(delivery: &Delivery, from: &Mailbox) -> String {
    let id = delivery.id();
    let again = delivery.replay.as_ref();
    let again = again.map_or(String::new(), |replay| format!(".{replay}"));
    format!("<{id}{again}@{}>", from.email.domain())
}

/// Renders one line, so that no value adds a header.
fn line(template: &Template, subject: &Arc<RenderInput>) -> Result<String, Failure> {
    let text = template.render(subject)?;
    if text.chars().any(char::is_control) || text.chars().count() > MAX_SUBJECT {
        return Err(template.refusal(
            "came out with a line break or another control character, or longer than 900 characters: remove it in \
             the template, for instance with {{ new.note|replace(\"\\n\", \" \")|truncate(100) }}",
        ));
    }
    Ok(text)
}

/// Returns the text with line ends of one kind, since a lone carriage return may not go over the wire.
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// One recipient, or none where it comes out empty.
enum Recipient {
    Fixed(Mailbox),
    Template(Template),
}

/// Rejects what is neither a template nor an address, at `place`.
fn fixed(place: &str, source: &str) -> Result<(), CompileError> {
    if source.contains('{') || source.trim().is_empty() {
        return Ok(());
    }
    let read = address::mailbox(source).map(drop);
    read.map_err(|why| CompileError::field(place, format!("is no address: {why}")))
}

impl Recipient {
    /// Compiles a list at `place`. Only the list's author may write several into one element.
    fn all(place: &str, sources: &[String]) -> Result<Vec<Self>, CompileError> {
        let mut all = Vec::new();
        for (n, source) in sources.iter().enumerate() {
            let place = format!("{place}[{n}]");
            if source.contains('{') {
                let template = Template::compile(place, source, Format::Text)?;
                all.push(Self::Template(template));
                continue;
            }
            for one in address::split(source) {
                let mailbox = address::mailbox(one)
                    .map_err(|why| CompileError::field(&place, format!("is no address: {why}")))?;
                all.push(Self::Fixed(mailbox));
            }
        }
        Ok(all)
    }

    fn render(&self, subject: &Arc<RenderInput>) -> Result<Option<Mailbox>, Failure> {
        let template = match self {
            Self::Fixed(mailbox) => return Ok(Some(mailbox.clone())),
            Self::Template(template) => template,
        };
        let text = line(template, subject)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        address::mailbox(&text).map(Some).map_err(|why| {
            template.refusal(&format!(
                "did not come out as one address ({why}): write it as ada@example.com or Bob <bob@example.com>, \
                 and each further one as an element of its own"
            ))
        })
    }
}

fn mailbox(template: &Template, subject: &Arc<RenderInput>) -> Result<Mailbox, Failure> {
    let text = line(template, subject)?;
    address::mailbox(&text).map_err(|error| {
        template.refusal(&format!(
            "did not come out as an address ({error}): write it as Shop <shop@example.com>"
        ))
    })
}

#[cfg(test)]
mod tests;
