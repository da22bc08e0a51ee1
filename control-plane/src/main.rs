//! The program `control-plane`.

fn main() -> std::process::ExitCode {
    control_plane::cli::main_from(std::env::args_os())
}
