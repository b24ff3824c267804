//! Whether a user's password is right.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use bcrypt::HashParts;
use rustix::process::{getpid, getpriority_process, setpriority_process};
use subtle::ConstantTimeEq as _;

use crate::http::places::Place;

/// How much lower the priority of a check is than that of the sampler (see nice(2)).
const NICE: i32 = 5;

/// Checks passwords: one at a time, because each takes tens of milliseconds of CPU time, and not on the thread that serves. A correct password
/// is not checked again while user, password and hash stay the same.
#[derive(Default)]
pub(super) struct Passwords {
    known: Arc<Mutex<Known>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Correct passwords by user, with the hash that they were checked against.
type Known = HashMap<String, (String, String)>;

/// Whether this is a bcrypt hash.
pub(super) fn is_hash(text: &str) -> bool {
    HashParts::from_str(text).is_ok_and(|parts| (4..=31).contains(&parts.get_cost()))
}

impl Passwords {
    /// Whether the password is that of the user. `users` has hashed passwords by user. While others are checked, the connection at `place` gives
    /// way to new ones.
    pub(super) async fn are_right(
        &self,
        users: &BTreeMap<String, String>,
        user: &str,
        password: &str,
        place: &Place,
    ) -> bool {
        let hash = users.get(user);
        let is_known = || hash.is_some_and(|hash| self.are_known(user, password, hash));
        if is_known() {
            return true;
        }
        // The response time does not reveal whether the user exists.
        let Some(checked) = hash.or_else(|| users.values().next()).cloned() else {
            return false;
        };
        let turn = {
            let _doubt = place.doubt();
            Arc::clone(&self.turn).lock_owned().await
        };
        if is_known() {
            return true;
        }
        let known = Arc::clone(&self.known);
        let (users, user, password) = (users.clone(), user.to_owned(), password.to_owned());
        let check = move || {
            // The client may disconnect before the end. The check still completes, and its result is known for the next request.
            let _turn = turn;
            be_nice();
            let start = Instant::now();
            let is_right = bcrypt::verify(&password, &checked).unwrap_or_default();
            if is_right && users.contains_key(&user) {
                let mut known = lock(&known);
                known.retain(|user, (_, hash)| users.get(user) == Some(hash));
                known.insert(user, (password, checked));
                return true;
            }
            // Guesses use at most half of the available CPU time.
            thread::sleep(start.elapsed());
            false
        };
        tokio::task::spawn_blocking(check).await.unwrap_or_default()
    }

    fn are_known(&self, user: &str, password: &str, hash: &str) -> bool {
        lock(&self.known).get(user).is_some_and(|(right, checked)| {
            checked == hash && bool::from(right.as_bytes().ct_eq(password.as_bytes()))
        })
    }
}

/// Lowers the priority of this thread, which does nothing else. This needs no privilege.
fn be_nice() {
    let nice = getpriority_process(Some(getpid())).unwrap_or_default();
    let _ = setpriority_process(None, nice + NICE);
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn users(cost: u32) -> BTreeMap<String, String> {
        let user = |(name, password): (&str, &str)| {
            (name.to_owned(), bcrypt::hash(password, cost).unwrap())
        };
        [("ann", "a"), ("bob", "b")].map(user).into()
    }

    #[tokio::test]
    async fn a_password_is_right_for_its_user_alone() {
        let (passwords, place) = (Passwords::default(), &Place::default());
        let users = users(4);
        for _ in 0..2 {
            assert!(passwords.are_right(&users, "ann", "a", place).await);
            assert!(passwords.are_right(&users, "bob", "b", place).await);
            assert!(!passwords.are_right(&users, "bob", "a", place).await);
            assert!(!passwords.are_right(&users, "eve", "a", place).await);
            assert!(!passwords.are_right(&users, "ann", "", place).await);
        }
        assert!(
            !passwords
                .are_right(&BTreeMap::new(), "ann", "a", place)
                .await
        );
    }

    #[tokio::test]
    async fn after_a_wrong_password_there_is_a_pause() {
        let (passwords, place) = (Passwords::default(), &Place::default());
        let users = users(6);
        let (mut check, mut refusal) = (Duration::MAX, Duration::MAX);
        // In turn, so that both have the same machine.
        for _ in 0..10 {
            let start = Instant::now();
            assert!(bcrypt::verify("a", &users["ann"]).unwrap());
            check = check.min(start.elapsed());
            let start = Instant::now();
            assert!(!passwords.are_right(&users, "ann", "b", place).await);
            refusal = refusal.min(start.elapsed());
        }
        assert!(refusal > check * 3 / 2);
    }

    #[tokio::test]
    async fn a_password_is_checked_against_a_new_hash() {
        let (passwords, place) = (Passwords::default(), &Place::default());
        let mut users = users(4);
        assert!(passwords.are_right(&users, "ann", "a", place).await);
        users.insert("ann".to_owned(), bcrypt::hash("other", 4).unwrap());
        assert!(!passwords.are_right(&users, "ann", "a", place).await);
    }

    #[tokio::test]
    async fn a_client_that_does_not_wait_is_known_the_next_time() {
        let (passwords, place) = (Passwords::default(), &Place::default());
        let users = users(8);
        {
            let asked = std::pin::pin!(passwords.are_right(&users, "ann", "a", place));
            let gave_up = tokio::select! { biased; _ = asked => false, () = async {} => true };
            assert!(gave_up);
        }
        while !passwords.are_known("ann", "a", &users["ann"]) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[test]
    fn a_hash_has_a_cost_that_bcrypt_knows() {
        let hash = |cost: &str| {
            format!("$2y${cost}$abcdefghijklmnopqrstuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu")
        };
        assert!(
            ["04", "10", "31"]
                .map(hash)
                .iter()
                .all(|hash| is_hash(hash))
        );
        for wrong in ["03", "32", "99", "x"].map(hash) {
            assert!(!is_hash(&wrong), "{wrong}");
        }
        assert!(!is_hash("") && !is_hash("$2y$10$\u{fc}"));
    }
}
