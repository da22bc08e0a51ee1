//! Who may administer the plane: named accounts, each with a role and a token of its own.
//!
//! Of a token only its SHA-256 is kept. A slow, salted hash would protect what people choose as passwords; a token is 256 random bits, which nobody
//! guesses at any speed, and two equal ones do not exist. The owner of the state folder is not among them: its credential is the file
//! `admin.token`, so that nobody can be shut out of their own machine.

use super::Fleet;
use crate::store::Write;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Accounts at most.
pub const ACCOUNTS_MAX: usize = 1_000;

/// Random bytes of a token.
pub const TOKEN_BYTES: usize = 32;

/// The name under which the owner of the state folder acts.
pub const OWNER: &str = "owner";

/// What an account may do; each role permits what the ones before it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look at everything.
    Viewer,
    /// Change the fleet: apply regions, let nodes in and shut them out.
    Operator,
    /// Say who may do what.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        })
    }
}

/// The name of an account: 1 to 40 of `a-z`, `0-9`, `.`, `_` and `-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(String);

impl AccountName {
    /// The owner of the state folder.
    pub fn owner() -> Self {
        Self(OWNER.to_owned())
    }
}

impl FromStr for AccountName {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        if (1..=40).contains(&s.len()) && s.bytes().all(fits) && s.bytes().any(|b| b.is_ascii_alphanumeric()) {
            Ok(Self(s.to_owned()))
        } else {
            Err(format!("`{}` is not an account name: use 1 to 40 of a-z, 0-9, . _ and -", s.escape_debug()))
        }
    }
}

impl TryFrom<String> for AccountName {
    type Error = String;

    fn try_from(s: String) -> Result<Self, Self::Error> {
        s.parse()
    }
}

impl From<AccountName> for String {
    fn from(name: AccountName) -> Self {
        name.0
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account, or the owner.
    pub name: AccountName,
    /// What it may do.
    pub role: Role,
}

/// An account. Its token is not here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRecord {
    /// Its name.
    pub name: AccountName,
    /// What it may do.
    pub role: Role,
    /// SHA-256 of its token's text, hex.
    pub hash: String,
    /// When it was made, seconds since 1970.
    pub created_unix_s: i64,
    /// When its token was made, seconds since 1970.
    pub token_unix_s: i64,
}

impl AccountRecord {
    fn key(&self) -> String {
        format!("account/{}", self.name)
    }

    fn write(&self) -> Write {
        super::records::put(self.key(), self)
    }
}

impl Fleet {
    /// All accounts.
    pub fn accounts(&self) -> impl Iterator<Item = &AccountRecord> {
        self.accounts.values()
    }

    /// One account.
    pub fn account(&self, name: &AccountName) -> Option<&AccountRecord> {
        self.accounts.get(name)
    }

    /// Whose token has this hash.
    pub fn caller(&self, hash: &str) -> Option<Caller> {
        let equal = |account: &&AccountRecord| {
            aws_lc_rs::constant_time::verify_slices_are_equal(account.hash.as_bytes(), hash.as_bytes()).is_ok()
        };
        let account = self.accounts.values().find(equal)?;
        Some(Caller { name: account.name.clone(), role: account.role })
    }

    /// Adds an account.
    pub fn add_account(&mut self, name: AccountName, role: Role, hash: String, now: i64) -> Result<Vec<Write>, String> {
        if name == AccountName::owner() {
            return Err(format!("`{OWNER}` is who owns the state folder; choose another name"));
        }
        if self.accounts.contains_key(&name) {
            return Err(format!(
                "there is an account {name} already; `control-plane admin rotate {name}` makes it a new token, \
                 and for another role remove it first"
            ));
        }
        if self.accounts.len() >= ACCOUNTS_MAX {
            return Err(format!("there are {ACCOUNTS_MAX} accounts already; remove some"));
        }
        let record = AccountRecord { name: name.clone(), role, hash, created_unix_s: now, token_unix_s: now };
        let writes = vec![record.write()];
        self.accounts.insert(name, record);
        Ok(writes)
    }

    /// Gives an account another token; the one before is of no use from now on. `None` where there is no such account.
    pub fn rotate_account(&mut self, name: &AccountName, hash: String, now: i64) -> Option<Vec<Write>> {
        let record = self.accounts.get_mut(name)?;
        record.hash = hash;
        record.token_unix_s = now;
        Some(vec![record.write()])
    }

    /// Removes an account. `None` where there is none.
    pub fn remove_account(&mut self, name: &AccountName) -> Option<Vec<Write>> {
        let record = self.accounts.remove(name)?;
        Some(vec![Write::Delete { key: record.key() }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tokens::hash;

    #[test]
    fn an_account_is_found_by_its_token_until_that_changes_or_it_goes() {
        let (mut fleet, name): (Fleet, AccountName) = (Fleet::default(), "eve".parse().unwrap());
        let writes = fleet.add_account(name.clone(), Role::Viewer, hash("one"), 1).unwrap();
        assert!(fleet.add_account(name.clone(), Role::Admin, hash("x"), 1).unwrap_err().contains("rotate eve"));
        assert!(fleet.add_account(AccountName::owner(), Role::Admin, hash("x"), 1).is_err());
        let [Write::Put { key, value }] = &writes[..] else { panic!("{writes:?}") };
        assert!(!value.contains("one"));
        let mut fleet = Fleet::load(&[(key.clone(), value.clone())], 2).unwrap();
        assert_eq!(fleet.caller(&hash("one")), Some(Caller { name: name.clone(), role: Role::Viewer }));
        fleet.rotate_account(&name, hash("two"), 3).unwrap();
        assert!(fleet.caller(&hash("one")).is_none() && fleet.caller(&hash("two")).is_some());
        fleet.remove_account(&name).unwrap();
        assert!(fleet.caller(&hash("two")).is_none() && fleet.remove_account(&name).is_none());
    }

    #[test]
    fn names_and_roles_keep_to_their_rules() {
        for bad in ["", "Eve", "a b", "..", "a/b", &"a".repeat(41)] {
            assert!(bad.parse::<AccountName>().is_err(), "{bad}");
        }
        assert!("eve.smith-2".parse::<AccountName>().is_ok());
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }
}
