//! The namespaces that this process is in.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Inode of the network namespace: the kernel's own number for it.
///
/// # Errors
/// When procfs does not tell.
pub fn network(procfs: &Path) -> io::Result<u32> {
    let found = std::fs::metadata(procfs.join("self/ns/net"))?;
    u32::try_from(found.ino()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_the_one_that_the_link_names() {
        let link = std::fs::read_link("/proc/self/ns/net").unwrap();
        let number = network(Path::new("/proc")).unwrap();
        assert_eq!(link, Path::new(&format!("net:[{number}]")));
    }
}
