//! `[hand_over]`: when a person takes over, and who is told.

use super::text;
use crate::definition::section::Section;
use nearfield_shared::assistant::{
    TOLD_EVERY_S, WAIT_S,
    http_tool::{UrlTemplate, is_name},
    is_number,
};

/// The most misunderstandings that a caller bears.
const MISUNDERSTANDINGS_MAX: i64 = 10;

/// Notes what is wrong besides the ways of asking. `hosts` is the allow-list.
pub fn check(hand_over: &Section<'_, '_>, hosts: &[&str]) {
    for key in ["say", "waiting", "accepted", "closed"] {
        text(hand_over, key, hand_over.optional_string(key));
    }
    hand_over.optional_integer("misunderstandings", (0, MISUNDERSTANDINGS_MAX));
    hand_over.number("sentiment", (-1.0, 0.0), false);
    if let Some(number) = hand_over.optional_string("transfer")
        && !is_number(number.value)
    {
        hand_over.note(
            number.at,
            "`transfer` is a telephone number that can be dialled from anywhere, for example \"+493012345678\"",
        );
    }
    hand_over.optional_integer("told_every_s", (TOLD_EVERY_S.0.into(), TOLD_EVERY_S.1.into()));
    hand_over.optional_integer("wait_s", (0, WAIT_S.into()));
    let Some(webhook) = hand_over.table("webhook", false) else { return };
    if let Some(url) = webhook.string("url") {
        match UrlTemplate::parse(url.value) {
            Err(error) => webhook.note(url.at, format!("`url` cannot be asked: {error}")),
            Ok(template) if template.arguments().next().is_some() => {
                webhook.note(url.at, "the notice travels in the body; `url` takes no {argument}");
            }
            Ok(template) => super::tools::check_host(&webhook, url.at, template.host(), hosts),
        }
    }
    if let Some(secret) = webhook.string("secret")
        && !is_name(secret.value)
    {
        let message = "`secret` is the name of a file in the folder secrets of each node: letters, digits, _ or -";
        webhook.note(secret.at, message);
    }
    webhook.finish();
}
