//! The command `edge-agent call`: its arguments, and the outcome for a person.

use super::{CallKey, CallOptions, CallOutcome, Recording, place_call, wav};
use crate::media::codec::Format;
use nearfield_dialogue::ledger::Ledger;
use nearfield_shared::region::Location;
use serde_json::Value;
use std::path::PathBuf;

/// The command `edge-agent call`.
#[derive(Debug, clap::Args)]
pub struct CallArgs {
    /// The recording: a WAV file of any rate, mono or stereo.
    pub recording: PathBuf,
    /// The node, for example ws://127.0.0.1:7700 or wss://fra-1.example.net.
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// A PEM file with the authority of the node's certificate, where it is a private one; then no other is trusted.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The caller's key, where the node asks for one. Other users of this machine can read arguments, so better put it into the
    /// environment or a file.
    #[arg(long, value_name = "KEY", env = "NEARFIELD_CALLER_KEY", hide_env_values = true)]
    pub key: Option<CallKey>,
    /// Where the answer goes, as a WAV file.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The file that holds the caller's key; it wins over --key and the environment.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// The assistant that is wanted.
    #[arg(long)]
    pub assistant: Option<String>,
    /// The caller's country, two letters.
    #[arg(long, value_name = "CC")]
    pub country: Option<String>,
    /// The caller's position in degrees north and east, for example 52.52,13.40.
    #[arg(long, value_name = "LAT,LON", value_parser = position, allow_hyphen_values = true)]
    pub position: Option<Location>,
    /// Send the recording at once instead of in real time.
    #[arg(long)]
    pub fast: bool,
    /// Agree to a transcript being stored on the node.
    #[arg(long)]
    pub consent: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Reads `LAT,LON`; the node checks that they are on the earth.
fn position(text: &str) -> Result<Location, String> {
    text.split_once(',')
        .and_then(|(north, east)| Some((north.trim().parse().ok()?, east.trim().parse().ok()?)))
        .map(|(latitude, longitude)| Location { latitude, longitude })
        .ok_or_else(|| format!("`{text}` is no position; degrees north and east are expected, for example 52.52,13.40"))
}

/// Runs `edge-agent call` and returns what to print.
pub async fn run(args: CallArgs) -> anyhow::Result<String> {
    let key = match &args.key_file {
        Some(file) => {
            let bytes = crate::secrets::read(file)?;
            let text = std::str::from_utf8(&bytes).map_err(|_| anyhow::anyhow!("{} holds no text", file.display()))?;
            Some(text.parse::<CallKey>().map_err(|reason| anyhow::anyhow!("{}: {reason}", file.display()))?)
        }
        None => args.key,
    };
    let mut options = CallOptions::new(&args.url, Recording::from_wav(&args.recording)?);
    options.ca = args.ca;
    options.key = key;
    options.assistant = args.assistant;
    options.country = args.country;
    options.location = args.position;
    options.real_time = !args.fast;
    options.consent = args.consent;
    let outcome = place_call(options).await?;
    if let Some(out) = &args.out {
        wav::write(out, Format::Pcm.rate_hz(), &outcome.audio)?;
    }
    if args.json {
        return Ok(serde_json::to_string_pretty(&outcome)?);
    }
    let mut text = outcome.to_text();
    if let Some(out) = &args.out {
        text.push_str(&format!("\nthe answer as sound: {}\n", out.display()));
    }
    Ok(text)
}

impl CallOutcome {
    /// The outcome for a person: what was said, where, and how long it took.
    pub fn to_text(&self) -> String {
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
        let at = &self.answered_at;
        let mut lines = vec![
            format!("you said:     {}", self.transcript),
            format!("the answer:   {}", self.answer),
            format!(
                "answered by:  node {} in region {} (law: {}), assistant {}",
                or_unknown(&at.node),
                or_unknown(&at.region),
                or_unknown(&at.jurisdiction),
                or_unknown(&at.assistant)
            ),
        ];
        if self.status != "completed" {
            lines.push(format!("status:       {}", self.status));
        }
        if self.handed_over {
            lines.push("handed over:  to a person".into());
        }
        lines.push(String::new());
        lines.extend(self.ledger.iter().flat_map(ledger_lines));
        if let Some(ms) = self.seen_first_audio_ms {
            lines.push(format!("  {:<44} {ms:>6} ms", "last sample sent -> first audio, seen from here"));
        }
        lines.join("\n") + "\n"
    }
}

/// The ledger as lines: the two sums first, then the stages.
fn ledger_lines(ledger: &Ledger) -> Vec<String> {
    let source = ledger.answered_by.and_then(|by| serde_json::to_value(by).ok());
    let source = source.as_ref().and_then(Value::as_str).unwrap_or("nothing").replace('_', " ");
    let rows = [
        ("end of speech -> first audio", ledger.speech_end_to_first_audio_ms),
        ("commit -> first audio", ledger.commit_to_first_audio_ms),
        ("  end of speech noticed (silence, turn model)", ledger.endpoint_ms),
        ("  of that, the turn model", ledger.turn_model_ms),
        ("  words asked for before the commit", ledger.begun_ahead_ms),
        ("  transcript", ledger.transcribe_ms),
        ("  comparison with the known questions", ledger.match_ms),
        ("  first words of the model", ledger.first_text_ms),
        ("  first whole phrase", ledger.first_phrase_ms),
        ("  first phrase spoken", ledger.first_render_ms),
        ("thrown away (speculation)", Some(ledger.speculative_waste_ms)),
        ("whole answer", Some(ledger.total_ms)),
        ("audio made", Some(ledger.audio_ms)),
    ];
    let mut lines = vec![format!("where the time went (answered by: {source})")];
    lines.extend(rows.iter().filter_map(|(name, ms)| ms.map(|ms| format!("  {name:<48} {ms:>6} ms"))));
    lines
}
