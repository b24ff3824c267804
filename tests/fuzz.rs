//! What fuzzing has found, and what it began with: every input in fuzz/corpus runs through its target.

#[expect(
    dead_code,
    unreachable_pub,
    reason = "libFuzzer's programs call them by name"
)]
#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");

/// The names of what is in a directory of fuzz/, without their ends.
fn names(directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(Path::new(FUZZ).join(directory)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_kept_input_passes_its_target() {
    for (name, target) in targets::TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(Path::new(FUZZ).join("corpus").join(name)).unwrap() {
            let path = entry.unwrap().path();
            // What was printed last names the input that fails.
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "{name} has no inputs");
    }
}

#[test]
fn every_target_has_a_program_and_inputs() {
    let targets = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned());
    let targets: BTreeSet<_> = targets.collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    let manifest = fs::read_to_string(Path::new(FUZZ).join("Cargo.toml")).unwrap();
    for name in targets {
        let program = format!("[[bin]]\nname = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n");
        assert!(manifest.contains(&program), "{name}");
        let program = fs::read_to_string(Path::new(FUZZ).join(format!("fuzz_targets/{name}.rs")));
        assert!(
            program
                .unwrap()
                .contains(&format!("run(\"{name}\", input)"))
        );
    }
}
