//! How the program is linked.

use std::process::Command;

/// The first glibc that reads relative relocations in their packed form.
const PACKED_SINCE: [u32; 2] = [2, 36];

/// Relocations of a program are read as it starts and stay in memory; packed they take next to
/// nothing, which saves a listener at rest one MB of 25. Only where the program is built for the
/// machine that builds it, since an older glibc would refuse it.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("TARGET");
    let native = target.is_ok() && target == std::env::var("HOST");
    if native
        && target.as_deref() == Ok("x86_64-unknown-linux-gnu")
        && glibc() >= Some(PACKED_SINCE)
    {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// This machine's version of glibc; nothing where it has another library.
fn glibc() -> Option<[u32; 2]> {
    let told = Command::new("getconf")
        .arg("GNU_LIBC_VERSION")
        .output()
        .ok()?;
    let told = String::from_utf8(told.stdout).ok()?;
    let (major, minor) = told.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some([major.parse().ok()?, minor.parse().ok()?])
}
