//! The `edge-agent` binary.

fn main() -> std::process::ExitCode {
    edge_agent::main_from(std::env::args_os())
}
