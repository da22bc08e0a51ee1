//! `control-plane events` and `control-plane top`: what happens in the fleet, and how its nodes are, as it goes on.

use super::{
    admin::{Access, ask, print_json},
    tables, watching,
};
use crate::{
    api::views::{NodeView, time},
    fleet::events::Event,
};
use clap::Args;
use nearfield_shared::region::RegionId;
use std::io::{self, IsTerminal as _, Write};

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Go on with what happens from now on, until Ctrl-C.
    #[arg(long)]
    follow: bool,
    /// How many of the last ones to begin with.
    #[arg(long, default_value_t = 50)]
    last: usize,
    /// Print one JSON object for each line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Only nodes of this region.
    #[arg(long)]
    region: Option<RegionId>,
    /// Print the table once. That is what happens where the output is not a terminal, too.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    json: super::Json,
}

fn print(events: &[Event], json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    for event in events {
        if json {
            writeln!(out, "{}", serde_json::to_string(event)?)?;
            continue;
        }
        let about =
            event.node.as_ref().map_or_else(|| event.region.to_string(), |node| format!("{}/{node}", event.region));
        let topic = if event.what.starts_with("rollout.") { "rollout: " } else { "" };
        writeln!(out, "{}  {about:<24} {topic}{}", time(event.unix_s), event.text)?;
    }
    Ok(out.flush()?)
}

pub(super) fn events(access: &Access, args: &EventsArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let all = ask(access, async |client| client.events(0).await)?;
    if all.is_empty() && !args.follow && !args.json {
        return Ok(writeln!(
            out,
            "Nothing has happened since the server started. Changes before that are in `control-plane audit list`."
        )?);
    }
    print(&all[all.len().saturating_sub(args.last)..], args.json, out)?;
    if !args.follow {
        return Ok(());
    }
    let after = std::cell::Cell::new(all.last().map_or(0, |event| event.n));
    watching::until(
        access,
        async |client| client.events(after.get()).await,
        |news| {
            after.set(news.last().map_or(after.get(), |event| event.n));
            print(news, args.json, out)?;
            Ok(false)
        },
    )?;
    Ok(())
}

pub(super) fn top(access: &Access, args: &TopArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    let once = args.once || args.json.json || !io::stdout().is_terminal();
    watching::until(
        access,
        async |client| client.nodes().await,
        |nodes: &Vec<NodeView>| {
            let of_region = |node: &&NodeView| args.region.as_ref().is_none_or(|region| node.region == *region);
            let mut shown: Vec<&NodeView> = nodes.iter().filter(of_region).filter(|n| n.state != "revoked").collect();
            // The busiest first; names keep the others in place.
            shown.sort_by(|a, b| b.load.unwrap_or(-1.0).total_cmp(&a.load.unwrap_or(-1.0)).then(a.node.cmp(&b.node)));
            if args.json.json {
                print_json(&shown, out)?;
            } else {
                if !once {
                    watching::clear_screen(out)?;
                }
                tables::top(&shown, out)?;
            }
            out.flush()?;
            Ok(once)
        },
    )?;
    Ok(())
}
