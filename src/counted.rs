//! Counts in sentences for people. Pure.

/// A number of things in words: "1 listener", "2 listeners", "1 process", "2 processes".
#[must_use]
pub fn counted(count: u64, thing: &str) -> String {
    let plural = match count {
        1 => "",
        _ if thing.ends_with('s') => "es",
        _ => "s",
    };
    format!("{count} {thing}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!(counted(0, "listener"), "0 listeners");
        assert_eq!(counted(1, "listener"), "1 listener");
        assert_eq!(counted(2, "listener"), "2 listeners");
        assert_eq!(counted(1, "process"), "1 process");
        assert_eq!(counted(2, "process"), "2 processes");
    }
}
