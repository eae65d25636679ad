//! Parses, dispatches, exits.

fn main() -> escapement::cli::exit::ExitCode {
    escapement::cli::main()
}
