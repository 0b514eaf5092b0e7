//! `natlab`: the NAT lab's command line.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    polymath_natlab::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    eprintln!("natlab: network namespaces are Linux's");
    ExitCode::FAILURE
}
