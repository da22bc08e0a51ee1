//! Nodes that somebody wants left alone, and the labels by which rollouts find nodes.

use super::{Fleet, records::Cordon};
use crate::store::Write;
use nearfield_shared::{
    rollout::{LABELS_MAX, Label},
    wire::NodeName,
};

impl Fleet {
    /// Leaves a node alone: no callers are sent to it, and no wave has it. With `drain` it also takes no new calls. `None` where there is no such node.
    pub fn cordon(&mut self, node: &NodeName, drain: bool, now: i64) -> Option<Vec<Write>> {
        self.nodes.get(node)?;
        let writes = self.change(node, |node| match &mut node.cordon {
            Some(cordon) => cordon.drain |= drain,
            None => node.cordon = Some(Cordon { drain, unix_s: now }),
        });
        if !writes.is_empty() {
            let (what, text) = if drain {
                ("node.drained", "takes no new calls until it is uncordoned")
            } else {
                ("node.cordoned", "no callers are sent to it until it is uncordoned")
            };
            self.tell_of_node(node, what, text.into(), now);
        }
        Some(writes)
    }

    /// The end of that.
    pub fn uncordon(&mut self, node: &NodeName, now: i64) -> Option<Vec<Write>> {
        self.nodes.get(node)?;
        let writes = self.change(node, |node| node.cordon = None);
        if !writes.is_empty() {
            self.tell_of_node(node, "node.uncordoned", "takes part again".into(), now);
        }
        Some(writes)
    }

    /// Gives a node labels and takes others from it. `None` where there is no such node.
    pub fn label(&mut self, node: &NodeName, add: &[Label], remove: &[Label]) -> Option<Result<Vec<Write>, String>> {
        let mut labels = self.nodes.get(node)?.labels.clone();
        labels.retain(|label| !remove.contains(label));
        labels.extend(add.iter().cloned());
        if labels.len() > LABELS_MAX {
            return Some(Err(format!("a node has at most {LABELS_MAX} labels; take some away with --remove")));
        }
        Some(Ok(self.change(node, |node| node.labels = labels)))
    }
}
