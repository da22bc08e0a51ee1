//! Commands that look again and again until something is over, or until Ctrl-C.

use super::admin::Access;
use crate::admin_client::{AdminClient, AdminError};
use std::{
    io::{self, IsTerminal as _, Write},
    time::Duration,
};

/// How often they look: what people follow with their eyes.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// Asks and shows until what is shown says that it is over. A server that goes away for a moment, for example to be upgraded, is waited for.
pub(super) fn until<A>(
    access: &Access,
    mut ask: impl AsyncFnMut(&AdminClient) -> Result<A, AdminError>,
    mut show: impl FnMut(&A) -> anyhow::Result<bool>,
) -> anyhow::Result<A> {
    let mut client = access.client()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut seen = false;
        loop {
            match ask(&client).await {
                Ok(answer) => {
                    seen = true;
                    if show(&answer)? {
                        return Ok(answer);
                    }
                }
                Err(AdminError::NoAnswer { .. }) if seen => {
                    // It may come back at another address.
                    if let Ok(again) = access.client() {
                        client = again;
                    }
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(EVERY).await;
        }
    })
}

/// Takes away the line that [`stands`] has written, on a terminal.
pub(super) fn clear_line(out: &mut dyn Write) -> io::Result<()> {
    if io::stdout().is_terminal() { write!(out, "\r\x1b[2K") } else { Ok(()) }
}

/// Writes a line that will be written over, on a terminal; elsewhere nothing.
pub(super) fn stands(line: &str, out: &mut dyn Write) -> io::Result<()> {
    if io::stdout().is_terminal() { write!(out, "{line}") } else { Ok(()) }
}

/// Begins a screen anew, on a terminal.
pub(super) fn clear_screen(out: &mut dyn Write) -> io::Result<()> {
    if io::stdout().is_terminal() { write!(out, "\x1b[H\x1b[2J") } else { Ok(()) }
}
