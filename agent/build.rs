//! Embeds the kernel programs when `cargo xtask` has built them; a plain `cargo check` needs no BPF tool chain.

use std::{env, fs, path::PathBuf};

fn main() {
    const OBJECT: &str = "TIDEGATE_BPF_OBJECT";
    println!("cargo::rerun-if-env-changed={OBJECT}");
    let object = env::var_os(OBJECT).map(PathBuf::from).unwrap_or_default();
    let target = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("tidegate-ebpf.o");
    let bytes = if object.exists() {
        println!("cargo::rerun-if-changed={}", object.display());
        fs::read(&object).unwrap_or_else(|error| panic!("cannot read {}: {error}", object.display()))
    } else {
        // Without this directory nothing would tell Cargo to run the script again once the programs are there.
        if let Some(parent) = object.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent)
                .unwrap_or_else(|error| panic!("cannot make {}: {error}", parent.display()));
            println!("cargo::rerun-if-changed={}", parent.display());
        }
        Vec::new()
    };
    fs::write(&target, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", target.display()));
}
