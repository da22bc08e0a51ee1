//! `control-plane rollout …`: how a change of a region goes out, and what to do about it.

use super::{
    admin::{Access, ask, print_json},
    rollout_tables, watching,
};
use crate::{api::rollout_view::RolloutView, rollout::Order};
use clap::{Args, Subcommand};
use nearfield_shared::region::RegionId;
use std::io::Write;

#[derive(Debug, Subcommand)]
pub(super) enum RolloutCommand {
    /// List the rollout of each region: the one under way, or the last.
    List(super::Json),
    /// Show one: its waves, its figures, what happened.
    Show(RegionArgs),
    /// Follow one until it is over. Exit code 0 where it is done, 1 where it was undone.
    Watch(RegionArgs),
    /// Let the wave begin that waits for approval.
    Approve(RegionArgs),
    /// Begin no new wave. Nodes that have the change are still watched, and a breach still undoes it.
    Pause(RegionArgs),
    /// Go on after a pause.
    Resume(RegionArgs),
    /// Put back what served before, on every node.
    Abort(RegionArgs),
}

#[derive(Debug, Args)]
pub(super) struct RegionArgs {
    /// The region.
    region: RegionId,
    #[command(flatten)]
    json: super::Json,
}

pub(super) fn run(access: &Access, command: RolloutCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    let (order, args) = match command {
        RolloutCommand::List(json) => {
            let all = ask(access, async |client| client.rollouts().await)?;
            return if json.json { print_json(&all, out) } else { Ok(rollout_tables::list(&all, out)?) };
        }
        RolloutCommand::Show(RegionArgs { region, json }) => {
            let view = ask(access, async |client| client.rollout(&region).await)?;
            return if json.json { print_json(&view, out) } else { Ok(rollout_tables::show(&view, out)?) };
        }
        RolloutCommand::Watch(args) => return watch(access, &args, out),
        RolloutCommand::Approve(args) => (Order::Approve, args),
        RolloutCommand::Pause(args) => (Order::Pause, args),
        RolloutCommand::Resume(args) => (Order::Resume, args),
        RolloutCommand::Abort(args) => (Order::Abort, args),
    };
    let RegionArgs { region, json } = args;
    let view = ask(access, async |client| client.order_rollout(&region, order).await)?;
    if json.json { print_json(&view, out) } else { Ok(rollout_tables::line(&view, out)?) }
}

/// Prints what happens as it happens; on a terminal with a line at the end that says where it stands.
fn watch(access: &Access, RegionArgs { region, json }: &RegionArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut seen = 0;
    let mut of = None;
    let last = watching::until(
        access,
        async |client| client.rollout(region).await,
        |view: &RolloutView| {
            if of.replace(view.began_unix_s).is_some_and(|before| before != view.began_unix_s) {
                // Another one began in its place.
                seen = 0;
            }
            // The oldest lines of a long log go; what was printed stays printed.
            let news = view.log.get(seen.min(view.log.len())..).unwrap_or_default();
            seen = view.log.len();
            let over = view.is_over();
            if json.json {
                for entry in news {
                    writeln!(out, "{}", serde_json::to_string(entry)?)?;
                }
            } else {
                watching::clear_line(out)?;
                rollout_tables::log(news, out)?;
                if !over {
                    watching::stands(&view.progress(), out)?;
                }
            }
            out.flush()?;
            Ok(over)
        },
    )?;
    match last.state.as_str() {
        "done" => Ok(()),
        _ => anyhow::bail!("the rollout in {region} was {}", last.stands),
    }
}
