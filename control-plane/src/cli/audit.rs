//! `control-plane audit …`: who changed what.

use super::{
    admin::{Access, ask, print_json},
    tables,
};
use crate::api::views::AuditQuery;
use clap::{Args, Subcommand};
use std::io::Write;

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List the last changes: who, when, what.
    List(ListArgs),
    /// Check that no byte or line of the audit was changed, removed or moved. Fails where one was, and names it.
    Verify(super::Json),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// How many.
    #[arg(long, default_value_t = 50)]
    last: usize,
    /// Only changes of this kind, for example node.renew, node.revoke, model.import or region.apply.
    #[arg(long, value_name = "KIND")]
    what: Option<String>,
    /// Only changes of this, for example node/fra-1 or model/hibari.
    #[arg(long, value_name = "OBJECT")]
    object: Option<String>,
    #[command(flatten)]
    json: super::Json,
}

pub(super) fn run(access: &Access, command: AuditCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        AuditCommand::List(ListArgs { last, what, object, json }) => {
            let query = AuditQuery { last, what, object };
            let view = ask(access, async |client| client.audit_of(&query).await)?;
            if json.json { print_json(&view, out) } else { Ok(tables::audit(&view, out)?) }
        }
        AuditCommand::Verify(json) => {
            let verdict = ask(access, async |client| client.verify_audit().await)?;
            if json.json {
                print_json(&verdict, out)?;
            } else {
                writeln!(out, "{} lines hold.", verdict.lines)?;
            }
            match verdict.problem {
                None => Ok(()),
                Some(problem) => anyhow::bail!("audit.log is not as it was written: {problem}"),
            }
        }
    }
}
