//! Environment variables of both programs, from the definitions of their options.

use std::collections::BTreeMap;
use std::fs;

use clap::Command;

use crate::cli::{default, options};
use crate::{cell, root, table};

/// What is known of a variable.
struct Variable {
    option: String,
    default: String,
    meaning: String,
}

/// Writes the page.
pub(crate) fn body() -> anyhow::Result<String> {
    let chart =
        fs::read_to_string(root().join("charts/observer-operator/templates/deployment.yaml"))?;
    let mut pods = String::new();
    for file in fs::read_dir(root().join("operator/src/listener/build"))? {
        pods.push_str(&fs::read_to_string(file?.path())?);
    }
    let mut text = "An option on the command line wins over its variable. `RUST_LOG` sets the level of \
        the log lines of both programs, as `info` or `info,observer::attempt=debug`. Variables such as \
        `HTTPS_PROXY` do not change where actions connect: see [egress](../how-to/egress.md).\n\n"
        .to_owned();
    for (mut program, by, source) in [
        (
            listener::cli::command(),
            "the operator, for its pods",
            &pods,
        ),
        (operator::cli::command(), "the chart", &chart),
    ] {
        program.build();
        let mut found = BTreeMap::new();
        collect(&program, &mut found);
        text.push_str(&format!("## {}\n\n", program.get_name()));
        text.push_str(&table(
            ["Variable", "Option", "Default", "Set by", "Meaning"],
            found.into_iter().map(|(name, variable)| {
                let set = if source.contains(&name) { by } else { "" };
                [
                    format!("`{name}`"),
                    format!("`{}`", variable.option),
                    variable.default,
                    set.to_owned(),
                    variable.meaning,
                ]
            }),
        ));
    }
    text.push_str(
        "The chart sets further variables of the operator from its value `env`. \
         `spec.podTemplate.env` of a listener adds variables to its pods; names that begin with \
         `OBSERVER_`, and `POD_NAME`, `POD_NAMESPACE`, `POD_UID` and `POD_IP`, are rejected there. \
         Variables of OpenTelemetry, as `OTEL_EXPORTER_OTLP_ENDPOINT`, have a listener send \
         [traces](../how-to/traces.md#send-spans), and [metrics and log lines]\
         (../how-to/operate.md#metrics-and-log-lines-over-otlp).\n",
    );
    Ok(text)
}

fn collect(command: &Command, found: &mut BTreeMap<String, Variable>) {
    for arg in options(command) {
        if let Some(name) = arg.get_env() {
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let variable = Variable {
                option: format!("--{}", arg.get_long().unwrap_or_default()),
                default: default(arg),
                meaning: cell(&help),
            };
            found
                .entry(name.to_string_lossy().into_owned())
                .or_insert(variable);
        }
    }
    for child in command
        .get_subcommands()
        .filter(|child| child.get_name() != "help")
    {
        collect(child, found);
    }
}
