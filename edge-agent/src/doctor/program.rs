//! Which program of the agent runs, and what was given up since.

use super::Line;
use crate::{
    state_dir::StateDir,
    update::{Book, Shelf},
};

/// Looks at it.
pub(super) fn check(dir: &StateDir) -> Line {
    let shelf = Shelf::of(dir);
    let book = match if shelf.is_used() { shelf.book().read() } else { Ok(Book::default()) } {
        Ok(book) => book,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Book::default(),
        Err(e) => {
            let remedy = "start the daemon; it sets the file aside and runs the installed program";
            return Line::warn("program", format!("which one runs cannot be read: {e}"), remedy);
        }
    };
    if let Some(digest) = book.current().digest()
        && let Err(why) = shelf.verified(digest)
    {
        let remedy = "start the daemon; it goes back to the program before";
        return Line::warn("program", format!("{} cannot run: {why}", book.current()), remedy);
    }
    match (book.trial(), book.failures().first()) {
        (Some(trial), _) => Line::ok("program", format!("{}; {} is being tried", book.current(), trial.program)),
        (None, Some(failure)) => Line::warn(
            "program",
            format!("{}; {} was given up: {}", book.current(), failure.program, failure.why),
            "see the node's log; a newer state tries that release again",
        ),
        (None, None) => Line::ok("program", format!("{}; before it {}", book.current(), book.previous())),
    }
}
