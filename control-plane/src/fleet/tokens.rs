//! Enrolment tokens: one use, for a limited time; only a hash of the secret is kept.

use super::{Fleet, records::TokenRecord};
use crate::store::Write;
use nearfield_shared::{
    region::RegionId,
    wire::{
        NodeName,
        enrol::{EnrolRefusal, EnrolRefused},
    },
};
use sha2::{Digest as _, Sha256};

/// Tokens that wait to be used, at most.
pub const TOKENS_MAX: usize = 10_000;

/// Tokens that are used or have expired and are remembered, at most; those that ended first are forgotten first.
pub const REMEMBERED_MAX: usize = 10_000;

/// How long a token that is over is remembered, so that whoever tries it is told what is wrong with it.
const REMEMBERED_S: i64 = 30 * 24 * 60 * 60;

/// SHA-256 of a secret's text, hex. A plain hash is enough, since the secret has 192 random bits.
pub fn hash(secret_text: &str) -> String {
    Sha256::digest(secret_text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A token that may be used, by this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redeemable {
    /// Its hash.
    pub hash: String,
    /// The node's name.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
}

/// Whether a token waits for nobody any more.
fn is_over(token: &TokenRecord, now: i64) -> bool {
    token.used_by.is_some() || now >= token.expires_unix_s
}

fn refuse<T>(code: EnrolRefusal, reason: impl Into<String>) -> Result<T, EnrolRefused> {
    Err(EnrolRefused { code, reason: reason.into() })
}

impl Fleet {
    /// Remembers a new token. `ttl_s` in seconds.
    pub fn add_token(
        &mut self,
        hash: String,
        region: RegionId,
        node: Option<NodeName>,
        ttl_s: i64,
        now: i64,
    ) -> Result<Vec<Write>, String> {
        if self.region(&region).is_none() {
            let known: Vec<_> = self.regions().map(|r| r.id.to_string()).collect();
            let known = if known.is_empty() { "none yet".to_owned() } else { known.join(", ") };
            return Err(format!(
                "there is no region {region} (known: {known}); run `control-plane apply regions/` with its file first"
            ));
        }
        let mut writes = self.forget_old_tokens(now);
        if self.tokens.values().filter(|token| !is_over(token, now)).count() >= TOKENS_MAX {
            return Err(format!("{TOKENS_MAX} tokens are waiting already; let some expire"));
        }
        let record = TokenRecord {
            hash: hash.clone(),
            region,
            node,
            created_unix_s: now,
            expires_unix_s: now.saturating_add(ttl_s),
            used_by: None,
        };
        writes.push(record.write());
        self.tokens.insert(hash, record);
        Ok(writes)
    }

    fn forget_old_tokens(&mut self, now: i64) -> Vec<Write> {
        let mut writes = Vec::new();
        self.tokens.retain(|_, token| {
            let keep = now < token.expires_unix_s.saturating_add(REMEMBERED_S);
            if !keep {
                writes.push(token.delete());
            }
            keep
        });
        let over = |token: &&TokenRecord| is_over(token, now);
        let too_many = self.tokens.values().filter(over).count().saturating_sub(REMEMBERED_MAX);
        if too_many > 0 {
            let over = self.tokens.values().filter(over);
            let mut over: Vec<_> = over.map(|token| (token.expires_unix_s, token.hash.clone())).collect();
            over.sort_unstable();
            let forgotten = over.drain(..too_many).filter_map(|(_, hash)| self.tokens.remove(&hash));
            writes.extend(forgotten.map(|token| token.delete()));
        }
        writes
    }

    /// Whether a secret may be used now, and for which node. Does not use it up: see [`Fleet::token_used`].
    pub fn redeem(
        &self,
        secret_text: &str,
        wish: Option<&NodeName>,
        suffix: u32,
        now: i64,
    ) -> Result<Redeemable, EnrolRefused> {
        let hash = hash(secret_text);
        let again = "make a new one with `control-plane token create`";
        let Some(token) = self.tokens.get(&hash) else {
            return refuse(EnrolRefusal::WrongToken, format!("this plane does not know the token; {again}"));
        };
        if let Some(node) = &token.used_by {
            return refuse(EnrolRefusal::UsedToken, format!("the token was used before, by node {node}; {again}"));
        }
        if now >= token.expires_unix_s {
            return refuse(EnrolRefusal::ExpiredToken, format!("the token has expired; {again}"));
        }
        let node = match (&token.node, wish) {
            (Some(node), _) => node.clone(),
            (None, Some(wish)) => {
                if self.nodes.contains_key(wish) {
                    let reason = format!(
                        "there is a node {wish} already; choose another name, or replace it with a token from \
                         `control-plane token create --region {} --node {wish}`",
                        token.region
                    );
                    return refuse(EnrolRefusal::NameTaken, reason);
                }
                wish.clone()
            }
            (None, None) => self.free_name(&token.region, suffix),
        };
        Ok(Redeemable { hash, node, region: token.region.clone() })
    }

    /// A name after the region that no node has.
    fn free_name(&self, region: &RegionId, suffix: u32) -> NodeName {
        // Region names have at most 40 characters, as node names have; the number needs nine of them.
        let stem = &region.as_str()[..region.as_str().len().min(31)];
        (0..)
            .map(|n| format!("{stem}-{:08x}", suffix.wrapping_add(n)))
            .filter_map(|name| name.parse().ok())
            .find(|name| !self.nodes.contains_key(name))
            .expect("there are more names than nodes, and a cut region name with a number is a node name")
    }

    /// Uses a token up.
    pub fn token_used(&mut self, used: &Redeemable) -> Vec<Write> {
        let Some(token) = self.tokens.get_mut(&used.hash) else { return Vec::new() };
        token.used_by = Some(used.node.clone());
        vec![token.write()]
    }
}
