//! The `hearth` program, built with the tests so that they can start it.

fn main() -> std::process::ExitCode {
    hearth::main()
}
