//! `nearfield`: the whole system on one machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    nearfield::cli::main_from(std::env::args_os())
}
