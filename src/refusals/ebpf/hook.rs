//! The eBPF program in the kernel, and its maps.

use libbpf_rs::{
    Error, ErrorKind, Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject,
    PrintLevel, Result,
};

use super::{Snapshot, parse_key};

/// `unix_connect.bpf.c`, compiled.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/unix_connect.bpf.o"));

/// The program, attached as long as this lives.
#[derive(Debug)]
pub(super) struct Hook {
    refused: MapHandle,
    overflow: MapHandle,
    _link: Link,
}

impl Hook {
    /// Loads and attaches the program; it counts clients of the network namespace with this inode.
    pub(super) fn attach(network_namespace: u32) -> std::result::Result<Self, String> {
        // libbpf's own words go to standard error otherwise.
        libbpf_rs::set_print(Some((PrintLevel::Info, |_, text| {
            tracing::debug!(text = text.trim_end(), "libbpf");
        })));
        load(network_namespace).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::PermissionDenied => {
                    "it takes the capabilities BPF and PERFMON, a seccomp profile and a kernel that allow it, and before Linux 5.11 a locked memory limit of 1 MiB (ulimit -l 1024)"
                }
                _ => "it takes Linux 5.10 or newer with type information (/sys/kernel/btf/vmlinux)",
            };
            format!("cannot hook unix_stream_connect() with eBPF: {error:#}; {why}")
        })
    }

    pub(super) fn read(&self) -> std::result::Result<Snapshot, String> {
        read(self).map_err(|error| format!("cannot read what eBPF counted: {error:#}"))
    }
}

fn load(network_namespace: u32) -> Result<Hook> {
    let mut object = ObjectBuilder::default().open_memory(PROGRAM)?;
    set_network_namespace(&mut object, network_namespace)?;
    let object = object.load()?;
    let mut programs = object.progs_mut();
    let program = programs.next().ok_or_else(|| missing("program"))?;
    Ok(Hook {
        refused: map(&object, "refused")?,
        overflow: map(&object, "overflow")?,
        _link: program.attach()?,
    })
}

/// It is the program's only constant.
fn set_network_namespace(object: &mut OpenObject, inode: u32) -> Result<()> {
    let mut maps = object.maps_mut();
    let constants = maps.find(|map| map.name().as_encoded_bytes().ends_with(b".rodata"));
    let mut constants = constants.ok_or_else(|| missing("constant"))?;
    constants.set_initial_value(&inode.to_ne_bytes())
}

fn map(object: &Object, name: &str) -> Result<MapHandle> {
    let mut maps = object.maps();
    let map = maps.find(|map| map.name() == name);
    MapHandle::try_from(&map.ok_or_else(|| missing("map"))?)
}

fn missing(what: &str) -> Error {
    std::io::Error::other(format!("the eBPF program lacks a {what}")).into()
}

fn read(hook: &Hook) -> Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    for key in hook.refused.keys() {
        if let (Some(name), Some(count)) = (parse_key(&key), count(&hook.refused, &key)?) {
            snapshot.names.push((name, count));
        }
    }
    snapshot.overflow = count(&hook.overflow, &0_u32.to_ne_bytes())?.unwrap_or_default();
    Ok(snapshot)
}

fn count(map: &MapHandle, key: &[u8]) -> Result<Option<u64>> {
    let value = map.lookup(key, MapFlags::ANY)?;
    Ok(value.and_then(|value| value.try_into().ok().map(u64::from_ne_bytes)))
}
