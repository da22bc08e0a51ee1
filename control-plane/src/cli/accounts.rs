//! `control-plane admin …`: who may administer.

use super::{
    admin::{Access, ask, print_json},
    tables,
};
use crate::{
    api::views::MadeAccount,
    fleet::accounts::{AccountName, Role},
};
use clap::{Args, Subcommand};
use std::io::Write;

#[derive(Debug, Subcommand)]
pub(super) enum AdminCommand {
    /// Add an account and show its token, once.
    Add(AddArgs),
    /// List all accounts.
    List(super::Json),
    /// Remove an account; its token is of no use from then on.
    Remove(AccountArgs),
    /// Give an account another token and show it, once.
    Rotate(AccountArgs),
}

#[derive(Debug, Args)]
pub(super) struct AddArgs {
    #[command(flatten)]
    account: AccountArgs,
    /// What it may do: look, change the fleet too, or say who may do what too.
    #[arg(long, value_enum)]
    role: Role,
}

#[derive(Debug, Args)]
pub(super) struct AccountArgs {
    /// The account's name.
    name: AccountName,
    #[command(flatten)]
    json: super::Json,
}

pub(super) fn run(access: &Access, command: AdminCommand, out: &mut dyn Write) -> anyhow::Result<()> {
    match command {
        AdminCommand::Add(AddArgs { account: AccountArgs { name, json }, role }) => {
            let made = ask(access, async |client| client.add_account(name, role).await)?;
            print_made(&made, json.json, out)
        }
        AdminCommand::Rotate(AccountArgs { name, json }) => {
            let made = ask(access, async |client| client.rotate_account(&name).await)?;
            print_made(&made, json.json, out)
        }
        AdminCommand::Remove(AccountArgs { name, json }) => {
            let removed = ask(access, async |client| client.remove_account(&name).await)?;
            if json.json { print_json(&removed, out) } else { Ok(writeln!(out, "Account {name} is removed.")?) }
        }
        AdminCommand::List(json) => {
            let accounts = ask(access, async |client| client.accounts().await)?;
            if json.json { print_json(&accounts, out) } else { Ok(tables::accounts(&accounts, out)?) }
        }
    }
}

fn print_made(made: &MadeAccount, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    if json {
        return print_json(made, out);
    }
    // The token alone on the standard output, so that it can be piped; the rest is for the eye.
    writeln!(out, "{}", made.token)?;
    eprintln!(
        "The token of {}, who is {}. It is shown only now; use it as NEARFIELD_ADMIN_TOKEN.",
        made.account.name, made.account.role
    );
    Ok(())
}
