//! `assistant check`: an assistant's file before it is applied.
//!
//! What is wrong is found here. What a caller would hear is not: no model runs in this program. A node's embeddings compare a question
//! with the file's own ways of asking, by the rule that calls use ([`matching`]), and its language model says the rest.

use super::MistakesPrinted;
use crate::{
    definition::{self, AssistantReport, SourceFile},
    secret_file,
};
use anyhow::{Context as _, bail};
use clap::Args;
use nearfield_shared::assistant::{
    Assistant,
    matching::{self, Decision, LeadsTo, cosine, with_facts},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{fs, io::Write, path::PathBuf, time::Duration};

/// How long a node may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of a file.
const FILE_BYTES_MAX: u64 = definition::FILES_BYTES_MAX as u64;

/// Questions of one command.
const QUESTIONS_MAX: usize = 100;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The file, for example regions/assistants/front-desk.toml.
    file: PathBuf,
    /// A question as a caller might ask it; may be given several times.
    #[arg(long = "ask", value_name = "QUESTION", requires = "node")]
    questions: Vec<String>,
    /// A node that has models, for example http://127.0.0.1:8080.
    #[arg(long, value_name = "URL")]
    node: Option<String>,
    /// The file with the node's caller key, for a node beyond this machine.
    #[arg(long, value_name = "FILE", requires = "node")]
    key: Option<PathBuf>,
    /// The authority that signed the node's certificate (PEM), where this machine does not know it.
    #[arg(long, value_name = "FILE", requires = "node")]
    ca: Option<PathBuf>,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

/// What a question leads to.
#[derive(Debug, Serialize)]
struct Asked {
    question: String,
    /// `known_question`, `hand_over`, `forbidden_topic` or `model`.
    answered_by: &'static str,
    /// The way of asking that came nearest, and its cosine.
    nearest: Option<String>,
    cosine: f32,
    /// The least cosine that counts there.
    threshold: f32,
    answer: String,
}

pub(super) fn check(args: &CheckArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    if args.questions.len() > QUESTIONS_MAX {
        bail!("{} questions are more than {QUESTIONS_MAX}; ask the rest in another command", args.questions.len());
    }
    let path = args.file.display().to_string();
    let bytes = fs::metadata(&args.file).with_context(|| path.clone())?.len();
    if bytes > FILE_BYTES_MAX {
        bail!("{path} has {bytes} bytes, at most {FILE_BYTES_MAX} fit; is this the right file?");
    }
    let text = fs::read_to_string(&args.file).with_context(|| path.clone())?;
    let stem = args.file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let (report, assistant) = definition::check_assistant(&SourceFile { path, stem, assistant: true, text });
    let asked = match (&assistant, &args.node) {
        (Some(assistant), Some(url)) if !args.questions.is_empty() => {
            let node = Node::new(url, args)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(node.ask(assistant, &args.questions))?
        }
        _ => Vec::new(),
    };
    if args.json {
        let AssistantReport { mistakes, advice } = &report;
        writeln!(out, "{:#}", json!({ "mistakes": mistakes, "advice": advice, "questions": asked }))?;
    } else {
        show(&report, assistant.as_ref(), &asked, out)?;
    }
    if report.mistakes.is_empty() { Ok(()) } else { Err(MistakesPrinted.into()) }
}

fn show(
    report: &AssistantReport,
    assistant: Option<&Assistant>,
    asked: &[Asked],
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    for mistake in &report.mistakes {
        writeln!(out, "{mistake}")?;
    }
    for advice in &report.advice {
        writeln!(out, "advice: {advice}")?;
    }
    if let Some(assistant) = assistant {
        let (questions, asks) = (assistant.questions.len(), matching::asks(assistant).len());
        let tools = assistant.tools.len();
        writeln!(
            out,
            "{}: {questions} questions, {asks} ways of asking, {tools} tools; nothing is wrong.",
            assistant.name
        )?;
    }
    for Asked { question, answered_by, nearest, cosine, threshold, answer } in asked {
        writeln!(out, "\n? {question}")?;
        if let Some(nearest) = nearest {
            writeln!(out, "  nearest: \"{nearest}\" at {cosine:.2}, {threshold:.2} counts")?;
        }
        writeln!(out, "  {}: {answer}", answered_by.replace('_', " "))?;
    }
    Ok(())
}

/// A node with models.
struct Node {
    http: reqwest::Client,
    url: String,
    key: Option<zeroize::Zeroizing<String>>,
}

impl Node {
    fn new(url: &str, args: &CheckArgs) -> anyhow::Result<Self> {
        let mut http = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
        let beyond = !url.starts_with("http://127.0.0.1") && !url.starts_with("http://localhost");
        if beyond && !url.starts_with("https://") && !url.starts_with("http://[::1]") {
            bail!("{url}: a node beyond this machine is asked by https only");
        }
        if let Some(ca) = &args.ca {
            let pem = fs::read(ca).with_context(|| ca.display().to_string())?;
            http = http.add_root_certificate(reqwest::Certificate::from_pem(&pem)?);
        }
        let key = args.key.as_deref().map(secret_file::read).transpose()?;
        let key = key
            .map(|key| std::str::from_utf8(&key).map(|key| zeroize::Zeroizing::new(key.trim().to_owned())))
            .transpose()
            .context("the key's file is no text")?;
        Ok(Self { http: http.build()?, url: url.trim_end_matches('/').to_owned(), key })
    }

    async fn ask(&self, assistant: &Assistant, questions: &[String]) -> anyhow::Result<Vec<Asked>> {
        let asks = matching::asks(assistant);
        let known = self.embed(asks.iter().map(|(ask, _)| (*ask).to_owned()).collect()).await?;
        let mut asked = Vec::with_capacity(questions.len());
        for (question, embedding) in questions.iter().zip(self.embed(questions.to_vec()).await?) {
            let cosines: Vec<(f32, LeadsTo)> =
                known.iter().zip(&asks).map(|(ask, (_, leads_to))| (cosine(ask, &embedding), *leads_to)).collect();
            asked.push(self.answer(assistant, &asks, question, &cosines).await?);
        }
        Ok(asked)
    }

    async fn answer(
        &self,
        assistant: &Assistant,
        asks: &[(&str, LeadsTo)],
        question: &str,
        cosines: &[(f32, LeadsTo)],
    ) -> anyhow::Result<Asked> {
        let says = |n: usize| assistant.questions.get(n).map(|question| question.answer.clone());
        let decision = matching::decide(assistant, cosines);
        // What decided is shown; where nothing did, what came nearest.
        let decides = |leads_to: LeadsTo| !matches!(decision, Decision::To(to) if to != leads_to);
        let nearest = asks.iter().zip(cosines).filter(|(_, (_, leads_to))| decides(*leads_to));
        let nearest = nearest.max_by(|(_, a), (_, b)| a.0.total_cmp(&b.0));
        let threshold =
            nearest.map_or(assistant.match_threshold, |(_, (_, leads_to))| matching::threshold(assistant, *leads_to));
        let (answered_by, answer) = match &decision {
            Decision::To(LeadsTo::Question(n)) => ("known_question", says(*n).unwrap_or_default()),
            Decision::To(LeadsTo::Person) => ("hand_over", assistant.hand_over.words().to_owned()),
            Decision::To(LeadsTo::Forbidden(n)) => {
                ("forbidden_topic", assistant.forbidden.get(*n).map(|topic| topic.say.clone()).unwrap_or_default())
            }
            Decision::Model { facts } => {
                let facts: Vec<String> = facts.iter().filter_map(|n| says(*n)).collect();
                ("model", self.think(&with_facts(&assistant.instructions, &facts), question).await?)
            }
        };
        Ok(Asked {
            question: question.to_owned(),
            answered_by,
            nearest: nearest.map(|((ask, _), _)| (*ask).to_owned()),
            cosine: nearest.map_or(0.0, |(_, (cosine, _))| *cosine),
            threshold,
            answer,
        })
    }

    async fn embed(&self, texts: Vec<String>) -> anyhow::Result<Vec<Vec<f32>>> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let count = texts.len();
        let answer = self.post("embeddings", json!({ "model": "embedding", "input": texts })).await?;
        let vector = |item: &Value| -> Option<Vec<f32>> {
            item.get("embedding")?.as_array()?.iter().map(|value| Some(value.as_f64()? as f32)).collect()
        };
        let data = answer.get("data").and_then(Value::as_array);
        let vectors: Option<Vec<Vec<f32>>> = data.and_then(|data| data.iter().map(vector).collect());
        vectors.filter(|vectors| vectors.len() == count).context("the node's answer is not understood")
    }

    async fn think(&self, instructions: &str, question: &str) -> anyhow::Result<String> {
        let messages = json!([{ "role": "system", "content": instructions }, { "role": "user", "content": question }]);
        // No name of an assistant: the file's own instructions count, not those that the node has.
        let body = json!({ "model": "nearfield-language-model", "messages": messages, "max_tokens": 192 });
        let answer = self.post("chat/completions", body).await?;
        let words = answer.pointer("/choices/0/message/content").and_then(Value::as_str);
        words.map(|words| words.trim().to_owned()).context("the node's answer is not understood")
    }

    async fn post(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        let url = format!("{}/v1/{path}", self.url);
        let mut request = self.http.post(&url).json(&body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.as_str());
        }
        let response =
            request.send().await.with_context(|| format!("{url} cannot be asked; is a node running there?"))?;
        let status = response.status();
        let answer: Value = response.json().await.with_context(|| format!("{url} answers with what is no JSON"))?;
        if !status.is_success() {
            let reason = answer.pointer("/error/message").and_then(Value::as_str).unwrap_or("no reason given");
            bail!("{url} refuses with {status}: {reason}");
        }
        Ok(answer)
    }
}
