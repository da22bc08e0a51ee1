//! Talks to the admin API of the server that runs on a state folder. Used by the command line, and by programs that run a
//! plane on their own machine.

use crate::{
    api::{
        ErrorBody,
        rollout_view::RolloutView,
        views::{
            AccountView, AuditQuery, AuditVerdict, AuditView, CordonWanted, Exported, FiguresView, Files, LabelsWanted,
            MadeAccount, NewAccount, NewToken, NodeView, Noted, PlanView, Revocation, StatusView, TokenView,
        },
    },
    definition::SourceFile,
    fleet::{
        accounts::{AccountName, Role},
        events::Event,
    },
    rollout::Order,
    state_dir::{StateDir, StateDirError},
};
use nearfield_shared::region::RegionId;
use reqwest::{Method, Url};
use serde::{Serialize, de::DeserializeOwned};
use std::{net::SocketAddr, time::Duration};
use zeroize::Zeroizing;

/// Longest time for an answer; an apply of many regions with a slow disk stays well below it.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The state folder cannot be used.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// No server runs.
    #[error("no control plane runs on {dir}; start it with `control-plane --state {dir} serve`")]
    NotRunning {
        /// The state folder.
        dir: String,
    },
    /// A server has run, and does not answer.
    #[error("the control plane at {address} does not answer ({reason}); is it still running? {remedy}")]
    NoAnswer {
        /// Where it was.
        address: String,
        /// What happened.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A token would go over a network in plain text.
    #[error(
        "{0} is not an address of this machine, and the admin API speaks plain HTTP; open a way to it with \
         `ssh -L 7481:127.0.0.1:7481 HOST` and use --server 127.0.0.1:7481"
    )]
    Beyond(SocketAddr),
    /// The server says no.
    #[error("{message}")]
    Refused {
        /// For programs.
        code: String,
        /// For people.
        message: String,
    },
    /// The answer is not understood.
    #[error("the control plane's answer is not understood ({0}); use a command of the same version")]
    Answer(String),
}

/// A client of one running server.
pub struct AdminClient {
    http: reqwest::Client,
    server: SocketAddr,
    token: Zeroizing<String>,
    /// How to get a server to run there, for errors.
    remedy: String,
}

impl AdminClient {
    /// A client for the server that runs on this folder, as the owner of the folder.
    pub fn connect(dir: &StateDir) -> Result<Self, AdminError> {
        Self::connect_as(dir, dir.admin_token()?)
    }

    /// The same as the account with this token.
    pub fn connect_as(dir: &StateDir, token: Zeroizing<String>) -> Result<Self, AdminError> {
        let shown = dir.root().display().to_string();
        let running = dir.running().ok_or_else(|| AdminError::NotRunning { dir: shown.clone() })?;
        Self::new(running.admin, token, format!("start it with `control-plane --state {shown} serve`"))
    }

    /// A client for a server whose admin API can be reached at this address of this machine, for example through `ssh -L`.
    pub fn at(server: SocketAddr, token: Zeroizing<String>) -> Result<Self, AdminError> {
        if !server.ip().is_loopback() {
            return Err(AdminError::Beyond(server));
        }
        Self::new(server, token, "see its log, and that the way to it (`ssh -L`) is open".into())
    }

    fn new(server: SocketAddr, token: Zeroizing<String>, remedy: String) -> Result<Self, AdminError> {
        let http = reqwest::Client::builder()
            // The server is on this machine; a proxy could only see the token.
            .no_proxy()
            .timeout(TIMEOUT)
            .build()
            .map_err(|e| AdminError::Answer(e.to_string()))?;
        Ok(Self { http, server, token, remedy })
    }

    async fn ask<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<A, AdminError> {
        let mut request = self
            .http
            .request(method, format!("http://{}/v1/admin/{path}", self.server))
            .bearer_auth(self.token.as_str());
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|e| AdminError::NoAnswer {
            address: self.server.to_string(),
            reason: reason(&e),
            remedy: self.remedy.clone(),
        })?;
        let good = response.status().is_success();
        let status = response.status();
        let bytes = response.bytes().await.map_err(|e| AdminError::Answer(reason(&e)))?;
        if good {
            return serde_json::from_slice(&bytes).map_err(|e| AdminError::Answer(e.to_string()));
        }
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => Err(AdminError::Refused { code: body.error.code, message: body.error.message }),
            Err(_) => Err(AdminError::Answer(format!("HTTP {status}"))),
        }
    }

    async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, AdminError> {
        self.ask(Method::GET, path, None::<&()>).await
    }

    /// How the server and its regions are.
    pub async fn status(&self) -> Result<StatusView, AdminError> {
        self.get("status").await
    }

    /// All nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, AdminError> {
        self.get("nodes").await
    }

    /// One node.
    pub async fn node(&self, name: &str) -> Result<NodeView, AdminError> {
        self.get(&format!("nodes/{}", checked(name)?)).await
    }

    /// Shuts a node out.
    pub async fn revoke(&self, name: &str, reason: Option<String>) -> Result<NodeView, AdminError> {
        self.ask(Method::POST, &format!("nodes/{}/revoke", checked(name)?), Some(&Revocation { reason })).await
    }

    /// Leaves a node alone; with `drain` it takes no new calls either.
    pub async fn cordon(&self, name: &str, drain: bool) -> Result<NodeView, AdminError> {
        self.ask(Method::POST, &format!("nodes/{}/cordon", checked(name)?), Some(&CordonWanted { drain })).await
    }

    /// The end of that.
    pub async fn uncordon(&self, name: &str) -> Result<NodeView, AdminError> {
        self.ask(Method::POST, &format!("nodes/{}/uncordon", checked(name)?), None::<&()>).await
    }

    /// Gives a node labels, and takes others from it.
    pub async fn label(&self, name: &str, labels: &LabelsWanted) -> Result<NodeView, AdminError> {
        self.ask(Method::POST, &format!("nodes/{}/labels", checked(name)?), Some(labels)).await
    }

    /// The rollout of each region: the one under way, or the last.
    pub async fn rollouts(&self) -> Result<Vec<RolloutView>, AdminError> {
        self.get("rollouts").await
    }

    /// One of them.
    pub async fn rollout(&self, region: &RegionId) -> Result<RolloutView, AdminError> {
        self.get(&format!("rollouts/{region}")).await
    }

    /// Does something about a rollout.
    pub async fn order_rollout(&self, region: &RegionId, order: Order) -> Result<RolloutView, AdminError> {
        self.ask(Method::POST, &format!("rollouts/{region}/{}", order.as_str()), None::<&()>).await
    }

    /// What happened after the event with this number.
    pub async fn events(&self, after: u64) -> Result<Vec<Event>, AdminError> {
        self.get(&format!("events?after={after}")).await
    }

    /// Makes an enrolment token.
    pub async fn create_token(&self, token: &NewToken) -> Result<TokenView, AdminError> {
        self.ask(Method::POST, "tokens", Some(token)).await
    }

    /// What applying these files would change.
    pub async fn plan(&self, files: Vec<SourceFile>) -> Result<PlanView, AdminError> {
        self.ask(Method::POST, "plan", Some(&Files { files })).await
    }

    /// Applies these files.
    pub async fn apply(&self, files: Vec<SourceFile>) -> Result<PlanView, AdminError> {
        self.ask(Method::POST, "apply", Some(&Files { files })).await
    }

    /// Has what was imported since the last time added to the audit.
    pub async fn note_models(&self) -> Result<Noted, AdminError> {
        self.ask(Method::POST, "models/note", None::<&()>).await
    }

    /// Has the store exported into its folder; everything that anyone was told of is in it then.
    pub async fn export(&self) -> Result<Exported, AdminError> {
        self.ask(Method::POST, "export", None::<&()>).await
    }

    /// All accounts.
    pub async fn accounts(&self) -> Result<Vec<AccountView>, AdminError> {
        self.get("accounts").await
    }

    /// Adds an account.
    pub async fn add_account(&self, name: AccountName, role: Role) -> Result<MadeAccount, AdminError> {
        self.ask(Method::POST, "accounts", Some(&NewAccount { name, role })).await
    }

    /// Gives an account another token.
    pub async fn rotate_account(&self, name: &AccountName) -> Result<MadeAccount, AdminError> {
        self.ask(Method::POST, &format!("accounts/{name}/rotate"), None::<&()>).await
    }

    /// Removes an account.
    pub async fn remove_account(&self, name: &AccountName) -> Result<AccountView, AdminError> {
        self.ask(Method::DELETE, &format!("accounts/{name}"), None::<&()>).await
    }

    /// The last lines of the audit.
    pub async fn audit(&self, last: usize) -> Result<AuditView, AdminError> {
        self.audit_of(&AuditQuery { last, what: None, object: None }).await
    }

    /// The last lines of the audit that are asked for.
    pub async fn audit_of(&self, query: &AuditQuery) -> Result<AuditView, AdminError> {
        let AuditQuery { last, what, object } = query;
        let what = what.iter().map(|what| ("what", what.as_str()));
        let object = object.iter().map(|object| ("object", object.as_str()));
        let pairs =
            std::iter::once(("last", last.to_string())).chain(what.chain(object).map(|(k, v)| (k, v.to_owned())));
        let url = Url::parse_with_params("http://localhost", pairs).map_err(|e| AdminError::Answer(e.to_string()))?;
        self.get(&format!("audit?{}", url.query().unwrap_or_default())).await
    }

    /// Whether the audit is as it was written.
    pub async fn verify_audit(&self) -> Result<AuditVerdict, AdminError> {
        self.get("audit/verify").await
    }

    /// Figures by region and day.
    pub async fn metrics(&self) -> Result<Vec<FiguresView>, AdminError> {
        self.get("metrics").await
    }
}

/// A node's name that cannot change the path it is put into.
fn checked(name: &str) -> Result<&str, AdminError> {
    match name.parse::<nearfield_shared::wire::NodeName>() {
        Ok(_) => Ok(name),
        Err(message) => Err(AdminError::Refused { code: "bad_name".into(), message }),
    }
}

/// The innermost reason; reqwest's own text repeats the address.
fn reason(error: &reqwest::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    source.to_string()
}
