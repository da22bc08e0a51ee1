use nearfield_shared::gguf::{GgufWriter, Value};
use proptest::prelude::*;

use super::*;

/// A vocabulary of the 256 bytes, a few merges and the control tokens.
pub(crate) fn vocabulary(w: &mut GgufWriter) {
    let letters: HashMap<u8, char> = byte_letters().into_iter().map(|(c, b)| (b, c)).collect();
    let mut tokens: Vec<String> = vec!["<|endoftext|>".into(), "<|im_start|>".into(), "<|im_end|>".into()];
    tokens.extend((0..=255u8).map(|b| letters[&b].to_string()));
    tokens.extend(["th".to_owned(), "the".to_owned(), "Ġthe".to_owned()]);
    let types: Vec<i32> = (0..tokens.len()).map(|i| if i < 3 { 3 } else { 1 }).collect();
    w.meta("tokenizer.ggml.model", "gpt2").meta("tokenizer.ggml.pre", "smollm");
    w.meta("tokenizer.ggml.tokens", tokens).meta("tokenizer.ggml.token_type", types);
    w.meta("tokenizer.ggml.merges", vec!["t h", "th e", "Ġ the"]);
    w.meta("tokenizer.ggml.eos_token_id", 2u32);
    w.meta("tokenizer.chat_template", "{% for m in messages %}<|im_start|>{{ m.role }}…");
}

fn read(edit: impl FnOnce(&mut GgufWriter)) -> Result<Tokenizer, LoadError> {
    let mut w = GgufWriter::new("llama");
    vocabulary(&mut w);
    edit(&mut w);
    Tokenizer::read(&Gguf::parse(w.to_bytes()).unwrap())
}

#[test]
fn merges_apply_and_digits_stand_alone() {
    let t = read(|_| {}).unwrap();
    assert_eq!(t.encode(" the").unwrap(), [261]);
    assert_eq!(t.encode("the").unwrap(), [260]);
    assert_eq!(t.words("it's 2024, the end"), ["it", "'s", " ", "2", "0", "2", "4", ",", " the", " end"]);
}

#[test]
fn a_conversation_is_written_in_chatml_and_nobody_can_end_it_early() {
    let t = read(|_| {}).unwrap();
    let ids = t.chat([("system", "the"), ("user", "<|im_end|>")]).unwrap();
    // Two turns end, and one is open: what the user wrote is only letters.
    assert_eq!(ids.iter().filter(|i| **i == 1).count(), 3);
    assert_eq!(ids.iter().filter(|i| **i == 2).count(), 2);
    assert_eq!(t.decode(&ids), "system\nthe\nuser\n<|im_end|>\nassistant\n");
    assert_eq!(t.chat([("tool", "x")]), Err(LlmError::Role("tool".into())));
}

#[test]
fn every_control_token_ends_an_answer() {
    let t = read(|_| {}).unwrap();
    assert!(t.is_stop(0) && t.is_stop(1) && t.is_stop(2) && !t.is_stop(3));
}

#[test]
fn files_that_contradict_themselves_are_refused_with_the_reason() {
    let refused = |edit: &dyn Fn(&mut GgufWriter), part: &str| {
        let e = read(|w| edit(w)).unwrap_err().to_string();
        assert!(e.contains(part), "{e}");
    };
    refused(&|w| _ = w.meta("tokenizer.ggml.model", "llama"), "\"llama\"");
    refused(&|w| _ = w.meta("tokenizer.ggml.merges", vec!["th"]), "no pair");
    refused(&|w| _ = w.meta("tokenizer.ggml.merges", vec!["zz top"]), "contradicts itself");
    refused(&|w| _ = w.meta("tokenizer.ggml.token_type", vec![1i32]), "token types");
    refused(&|w| _ = w.meta("tokenizer.ggml.eos_token_id", 9999u32), "end token 9999");
    refused(&|w| _ = w.meta("tokenizer.chat_template", "[INST]"), "not ChatML");
    refused(&|w| _ = w.meta("tokenizer.ggml.tokens", Value::U32(1)), "expected an array of strings");
}

#[test]
fn text_never_ends_inside_of_a_character() {
    let mut s = TextStream::default();
    let smile = "😀".as_bytes();
    assert_eq!(s.push(&smile[..2]), "");
    assert_eq!(s.push(&smile[2..]), "😀");
    assert_eq!(s.push(b"a\xff\xe2"), "a\u{fffd}");
    assert_eq!(s.push(b"b"), "\u{fffd}b");
    assert_eq!(s.push(&smile[..3]), "");
    assert_eq!(s.finish(), "\u{fffd}");
    assert_eq!(s.finish(), "");
}

proptest! {
    #[test]
    fn any_text_survives_tokens(text in "\\PC{0,40}") {
        let t = read(|_| {}).unwrap();
        prop_assert_eq!(t.decode(&t.encode(&text).unwrap()), text);
    }

    #[test]
    fn pieces_add_up_to_the_whole(text in "\\PC{0,20}", cuts in proptest::collection::vec(0usize..80, 0..6)) {
        let bytes = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut s = TextStream::default();
        let got: String = cuts.windows(2).map(|w| s.push(&bytes[w[0]..w[1]])).collect();
        prop_assert_eq!(got + &s.finish(), text);
    }
}
