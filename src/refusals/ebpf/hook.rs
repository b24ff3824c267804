//! The eBPF program in the kernel, and its maps.

use libbpf_rs::{
    Error, ErrorKind, Link, MapCore, MapFlags, MapHandle, Object, ObjectBuilder, OpenObject,
    PrintLevel, Result,
};

use super::{Scope, Snapshot, parse_key};

/// `unix_connect.bpf.c`, compiled.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/unix_connect.bpf.o"));

/// Number of addresses that are counted individually if there are many network namespaces.
const ADDRESSES_OF_ALL: u32 = 4096;

/// The program, attached as long as this lives.
#[derive(Debug)]
pub(super) struct Hook {
    refused: MapHandle,
    overflow: MapHandle,
    _link: Link,
}

impl Hook {
    /// Loads and attaches the program; it counts clients of one network namespace, or of all.
    pub(super) fn attach(scope: Scope) -> std::result::Result<Self, String> {
        // Otherwise libbpf writes its messages to standard error.
        libbpf_rs::set_print(Some((PrintLevel::Info, |_, text| {
            tracing::debug!(text = text.trim_end(), "libbpf");
        })));
        load(scope).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::PermissionDenied => {
                    "eBPF requires the capabilities BPF and PERFMON, a seccomp profile and a kernel that allow it, and before Linux 5.11 a locked memory limit of 1 MiB (ulimit -l 1024)"
                }
                _ => "eBPF requires Linux 5.10 or newer with type information (/sys/kernel/btf/vmlinux)",
            };
            format!("cannot attach the eBPF program to unix_stream_connect(): {error:#}; {why}")
        })
    }

    /// Removes the counts for clients of a network namespace.
    pub(super) fn forget(&self, network_namespace: u32) {
        let is_of_it =
            |key: &Vec<u8>| parse_key(key).is_some_and(|(of, _)| of == network_namespace);
        let keys: Vec<Vec<u8>> = self.refused.keys().filter(is_of_it).collect();
        for key in keys {
            // A missing key is not an error.
            let _ = self.refused.delete(&key);
        }
        let _ = self.overflow.delete(&network_namespace.to_ne_bytes());
    }

    pub(super) fn read(&self) -> std::result::Result<Snapshot, String> {
        read(self)
            .map_err(|error| format!("cannot read the counters of the eBPF program: {error:#}"))
    }
}

fn load(scope: Scope) -> Result<Hook> {
    let mut object = ObjectBuilder::default().open_memory(PROGRAM)?;
    match scope {
        Scope::One(inode) => set_network_namespace(&mut object, inode)?,
        Scope::All => {
            set_network_namespace(&mut object, 0)?;
            let mut maps = object.maps_mut();
            let refused = maps.find(|map| map.name() == "refused");
            refused
                .ok_or_else(|| missing("map"))?
                .set_max_entries(ADDRESSES_OF_ALL)?;
        }
    }
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
    std::io::Error::other(format!("the eBPF program has no {what}")).into()
}

fn read(hook: &Hook) -> Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    for key in hook.refused.keys() {
        if let (Some((namespace, name)), Some(count)) =
            (parse_key(&key), count(&hook.refused, &key)?)
        {
            let of_namespace = snapshot.entry(namespace).or_default();
            of_namespace.add(name, count);
        }
    }
    for key in hook.overflow.keys() {
        let namespace = key.as_slice().try_into().map(u32::from_ne_bytes);
        if let (Ok(namespace), Some(count)) = (namespace, count(&hook.overflow, &key)?) {
            snapshot.entry(namespace).or_default().overflow = count;
        }
    }
    Ok(snapshot)
}

fn count(map: &MapHandle, key: &[u8]) -> Result<Option<u64>> {
    let value = map.lookup(key, MapFlags::ANY)?;
    Ok(value.and_then(|value| value.try_into().ok().map(u64::from_ne_bytes)))
}
