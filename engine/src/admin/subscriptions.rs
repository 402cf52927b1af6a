//! `eventstream subscriptions`: the durable subscriptions and groups of a running engine.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use super::Request;
use crate::subscribe::{Listed, NameKind};

#[derive(Subcommand)]
pub enum SubscriptionsCommand {
    /// Lists them, with where they are and who has them.
    List {
        /// All of it as JSON.
        #[arg(long)]
        json: bool,
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Forgets one that nobody uses, and its position.
    Delete {
        name: String,
        /// Needed where a durable subscription and a group have the same name.
        #[arg(long)]
        kind: Option<Kind>,
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Durable,
    Group,
}

impl From<Kind> for NameKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Durable => Self::Durable,
            Kind::Group => Self::Group,
        }
    }
}

impl SubscriptionsCommand {
    /// `ask` puts a request to the engine of a configuration.
    pub fn run(&self, ask: impl Fn(&Request, Option<&Path>) -> Result<Value, String>) -> Result<(), String> {
        match self {
            Self::List { json, config } => {
                let answer = ask(&Request::Subscriptions, config.as_deref())?;
                let text = if *json { format!("{answer:#}\n") } else { table(answer)? };
                match std::io::stdout().write_all(text.as_bytes()) {
                    // A reader that has seen enough is no mistake.
                    Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                        Err(format!("standard output: {error}"))
                    }
                    _ => Ok(()),
                }
            }
            Self::Delete { name, kind, config } => {
                let kind = kind.map(NameKind::from);
                let deleted = ask(&Request::SubscriptionDelete { name: name.clone(), kind }, config.as_deref())?;
                println!("{} {name} deleted", deleted.as_str().unwrap_or_default());
                Ok(())
            }
        }
    }
}

fn table(answer: Value) -> Result<String, String> {
    let all: Vec<Listed> = serde_json::from_value(answer).map_err(|error| format!("answer: {error}"))?;
    let head = ["KIND", "NAME", "STREAM", "EPOCH", "OFFSET", "LAG", "MEMBERS", "IN FLIGHT", "FILTER"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(all.into_iter().map(|name| {
        [
            name.kind.as_str().to_owned(),
            name.name,
            name.stream,
            name.position.epoch.to_string(),
            name.position.offset.to_string(),
            name.lag.map_or_else(|| "no stream".to_owned(), |lag| lag.to_string()),
            name.members.to_string(),
            name.in_flight.to_string(),
            name.filter,
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        out += cells.collect::<Vec<_>>().join("  ").trim_end();
        out.push('\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let one = serde_json::json!({
            "kind": "group", "name": "billing", "filter": "orders/#", "classes": ["batch"], "stream": "default",
            "by_topic": true, "position": {"epoch": 2, "offset": 1234}, "lag": null, "members": 0, "in_flight": 7,
        });
        let table = table(serde_json::json!([one])).unwrap();
        let wanted = "\
KIND   NAME     STREAM   EPOCH  OFFSET  LAG        MEMBERS  IN FLIGHT  FILTER
group  billing  default  2      1234    no stream  0        7          orders/#
";
        assert_eq!(table, wanted);
    }
}
