//! Whether a user's password is right.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bcrypt::HashParts;
use subtle::ConstantTimeEq as _;

/// Checks passwords: one at a time, as each takes tens of milliseconds of a processor, and away from the thread that serves. Who was
/// right is not checked again as long as user, password and hash are the same.
#[derive(Default)]
pub(super) struct Passwords {
    /// The right ones, with the hash that they were checked against: one a user, so there are no more than the file has users.
    known: Mutex<HashMap<String, (String, String)>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Whether this is a hash made by bcrypt.
pub(super) fn is_hash(text: &str) -> bool {
    HashParts::from_str(text).is_ok()
}

impl Passwords {
    /// Whether the password is that of the user. `users` has hashed passwords by user.
    pub(super) async fn are_right(
        &self,
        users: &BTreeMap<String, String>,
        user: &str,
        password: &str,
    ) -> bool {
        let hash = users.get(user);
        if hash.is_some_and(|hash| self.are_known(user, password, hash)) {
            return true;
        }
        // Nobody learns from the time that it takes whether there is such a user.
        let Some(checked) = hash.or_else(|| users.values().next()).cloned() else {
            return false;
        };
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if hash.is_some_and(|hash| self.are_known(user, password, hash)) {
            return true;
        }
        let asked = password.to_owned();
        let check = move || {
            // A client that does not wait for its answer gives nobody else the turn.
            let _turn = turn;
            bcrypt::verify(asked, &checked).unwrap_or_default()
        };
        let is_right = tokio::task::spawn_blocking(check).await.unwrap_or_default();
        if let Some(hash) = hash.filter(|_| is_right) {
            let mut known = self.known();
            known.retain(|user, _| users.contains_key(user));
            known.insert(user.to_owned(), (password.to_owned(), hash.clone()));
            return true;
        }
        false
    }

    fn are_known(&self, user: &str, password: &str, hash: &str) -> bool {
        self.known().get(user).is_some_and(|(right, checked)| {
            checked == hash && bool::from(right.as_bytes().ct_eq(password.as_bytes()))
        })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, (String, String)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
