//! Work of a call that other hosts do: tools, a hand-over's webhook, and the provider that puts a caller through.

use super::{Jobs, Report, send};
use crate::{
    hand_over,
    media::telephony::PutThrough,
    outbound::tool::{self, ToolFailure},
};
use nearfield_dialogue::{events::Input, tools::ToolCall};
use nearfield_shared::{assistant::Webhook, pii::Pii};
use serde_json::Value;
use std::{sync::Arc, time::Instant};
use uuid::Uuid;

impl Jobs {
    /// Does what a function is called for.
    pub fn call_function(&mut self, call: ToolCall) {
        let (outbound, desk, report) = (self.outbound.clone(), Arc::clone(&self.desk), self.report.clone());
        self.tasks.spawn(async move {
            let assistant = &desk.assistant;
            let output = match assistant.tools.iter().find(|tool| tool.name == call.name) {
                Some(tool) => tool::call(&outbound, tool, &assistant.hosts, call.arguments.reveal()).await,
                None => Err(ToolFailure::Unknown),
            };
            let output = output.map(Pii::new).map_err(|failure| {
                tracing::warn!(assistant = assistant.name, tool = call.name, %failure, "a tool failed");
                failure.for_model()
            });
            send(&report, Report::Input(Input::Returned { call_id: call.call_id, output })).await;
        });
    }

    /// Asks whoever carries the call to put the caller through.
    pub fn put_through(&mut self, how: Option<PutThrough>) {
        let (outbound, report) = (self.outbound.clone(), self.report.clone());
        self.tasks.spawn(async move {
            let done = match how {
                Some(how) => how.ask(&outbound).await,
                None => false,
            };
            send(&report, Report::Input(Input::PutThrough { done })).await;
        });
    }

    /// Tells of a hand-over. That goes on when the call has ended: the caller may be called back.
    pub fn hand_over(&self, hook: Webhook, id: Uuid, notice: Value, wanted_until: Instant) {
        let (outbound, desk, report) = (self.outbound.clone(), Arc::clone(&self.desk), self.report.clone());
        tokio::spawn(async move {
            let is_wanted = || !report.is_closed();
            let hosts = &desk.assistant.hosts;
            let end = hand_over::deliver(&outbound, &hook, hosts, (id, &notice), wanted_until, is_wanted).await;
            if let Some(end) = end {
                send(&report, Report::HandOver(end)).await;
            }
        });
    }
}
