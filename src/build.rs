//! Passes the version of the compiler to `--version`, and compiles the eBPF program when the feature `ebpf` is on.

use std::env;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = "src/refusals/unix_connect.bpf.c";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-env-changed=CLANG");
    // cargo run and cargo test pass it on to the program, where a name that begins like those of the flags would be an unknown variable.
    println!("cargo:rustc-env=RUSTC_OF_THIS_BUILD={}", compiler());
    if env::var_os("CARGO_FEATURE_EBPF").is_none() {
        return;
    }
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let object = Path::new(&variable("OUT_DIR")).join("unix_connect.bpf.o");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let mut compile = Command::new(&clang);
    // The headers are those of the libbpf that is linked in. -g creates the type information with which the loader finds the kernel's offsets.
    let headers = variable("DEP_BPF_INCLUDE");
    compile.args(["-g", "-O2", "-Wall", "-Werror", "-target", "bpf"]);
    // No path of the building machine ends up in the binary.
    compile.arg("-fdebug-compilation-dir=.");
    compile.arg(format!("-ffile-prefix-map={headers}=libbpf"));
    compile.args(["-I", &headers, "-c", SOURCE, "-o"]);
    let done = compile.arg(&object).status();
    assert!(
        done.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{clang} cannot compile {SOURCE} ({done:?}); the feature ebpf needs clang, see tests/install.sh ebpf"
    );
}

/// The compiler's version, as in 1.95.0.
fn compiler() -> String {
    let program = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let version = text.split_whitespace().nth(1);
    version.unwrap_or("unknown").to_owned()
}
