//! The grapheme-to-phoneme half of a Hibari voice: dictionaries, tagger, word tables and the network for unknown words.
//!
//! JSON becomes sorted byte tables ([`nearfield_shared::table`]) in tensors of raw bytes, which the agent searches where they lie:
//! 4.6 MB for 184,000 pronunciations and 291,000 weights of the tagger. Names are those of
//! `edge-agent/inference/src/tts/g2p/keys.rs`; the values of each table are described there.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use flate2::read::GzDecoder;
use nearfield_shared::gguf::{BlockType, GgufError, GgufWriter, Value};
use nearfield_shared::table::Table;
use serde::de::DeserializeOwned;

use super::graph::{Graph, transposed};
use super::onnx::Model;
use super::{ConvertError, Sources};

/// Roles of the sources, as the catalogue gives them.
pub const ROLES: [&str; 8] =
    ["lexicon_gold", "lexicon_silver", "normalize", "oov", "oov_vocab", "tagger", "tokenizer_exceptions", "vocab"];
/// The largest of the compressed files holds 4.6 MB; far beyond this it is a bomb.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;
/// Heads of the network for unknown words, which its graph only shows in shapes computed at run time.
const HEADS: u32 = 4;

/// Writes everything a voice needs to turn text into phoneme ids.
pub fn attach(sources: &Sources, out: &mut GgufWriter) -> Result<(), ConvertError> {
    let vocabulary: HashMap<String, u8> = json(sources, "vocab")?;
    let mut by_id = vec![String::new(); vocabulary.values().max().map_or(0, |&m| usize::from(m) + 1)];
    for (character, &id) in &vocabulary {
        if id == 0 || !by_id[usize::from(id)].is_empty() || character.chars().count() != 1 {
            return Err(ConvertError::malformed(
                "vocab",
                format!("id {id} of {character:?} is the pad, or stands twice"),
            ));
        }
        by_id[usize::from(id)].clone_from(character);
    }
    strings(out, "g2p.alphabet", by_id);
    // Kept as it is, because the order of its entries matters; but it has to be JSON.
    let _: serde_json::Value = json(sources, "normalize")?;
    out.meta("g2p.words", Value::String(sources.text("normalize")?.to_owned()));
    for (role, name) in [("lexicon_gold", "g2p.lexicon.gold"), ("lexicon_silver", "g2p.lexicon.silver")] {
        table(out, name, dictionary(role, packed_json(sources, role)?, &vocabulary)?)?;
    }
    let special: BTreeMap<String, Vec<String>> = json(sources, "tokenizer_exceptions")?;
    let special = special.into_iter().map(|(text, tokens)| (text.into_bytes(), tokens.join("\0").into_bytes()));
    table(out, "g2p.tokens", special.collect())?;
    tagger(sources, out)?;
    unknown_words(sources, out)
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Pronunciation {
    One(String),
    /// By part of speech; `None` says that the word is spelled there.
    ByTag(BTreeMap<String, Option<String>>),
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// A byte for each phoneme; a word with several readings begins with a 0, and the readings stand under `word TAB tag`.
fn dictionary(
    role: &str,
    words: BTreeMap<String, Pronunciation>,
    vocabulary: &HashMap<String, u8>,
) -> Result<Entries, ConvertError> {
    let ids = |word: &str, phonemes: &str| -> Result<Vec<u8>, ConvertError> {
        let id = |c: char| vocabulary.get(c.encode_utf8(&mut [0; 4]) as &str).copied();
        let ids: Option<Vec<u8>> = phonemes.chars().map(id).collect();
        ids.filter(|ids| !ids.is_empty()).ok_or_else(|| {
            ConvertError::malformed(role, format!("{word:?} has the pronunciation {phonemes:?}, not in the alphabet"))
        })
    };
    let mut entries = Entries::with_capacity(words.len());
    for (word, pronunciation) in words {
        if word.contains('\t') {
            return Err(ConvertError::malformed(role, format!("{word:?} holds a tab")));
        }
        match pronunciation {
            Pronunciation::One(p) => entries.push((word.clone().into_bytes(), ids(&word, &p)?)),
            Pronunciation::ByTag(mut readings) => {
                let default = readings.remove("DEFAULT").flatten();
                let default =
                    default.ok_or_else(|| ConvertError::malformed(role, format!("{word:?} has no default reading")))?;
                let mut value = vec![0];
                value.extend(ids(&word, &default)?);
                entries.push((word.clone().into_bytes(), value));
                for (tag, reading) in readings {
                    let value = reading.map_or(Ok(Vec::new()), |p| ids(&word, &p))?;
                    entries.push((format!("{word}\t{tag}").into_bytes(), value));
                }
            }
        }
    }
    Ok(entries)
}

#[derive(serde::Deserialize)]
struct TaggerFile {
    tags: Vec<String>,
    tagdict: BTreeMap<String, String>,
    vocab: Vec<String>,
    weights: BTreeMap<String, BTreeMap<String, f64>>,
}

fn tagger(sources: &Sources, out: &mut GgufWriter) -> Result<(), ConvertError> {
    let file: TaggerFile = packed_json(sources, "tagger")?;
    let index = |tag: &str| -> Result<u8, ConvertError> {
        let at = file.tags.iter().position(|t| t == tag).and_then(|i| u8::try_from(i).ok());
        at.ok_or_else(|| ConvertError::malformed("tagger", format!("the tag {tag:?} is not among its tags")))
    };
    let mut fixed = Entries::new();
    for (word, tag) in &file.tagdict {
        fixed.push((word.clone().into_bytes(), vec![index(tag)?]));
    }
    table(out, "g2p.tagger.fixed", fixed)?;
    table(out, "g2p.tagger.vocabulary", file.vocab.iter().map(|w| (w.clone().into_bytes(), vec![])).collect())?;
    let mut weights = Entries::new();
    for (feature, by_tag) in &file.weights {
        let mut value = Vec::with_capacity(by_tag.len() * 3);
        for (tag, &weight) in by_tag {
            let tenths = (weight * 10.0).round();
            // The agent adds tenths / 10; only then do ties fall as they do in the package.
            if tenths.abs() > f64::from(i16::MAX) || tenths / 10.0 != weight {
                return Err(ConvertError::unsupported("tagger", format!("the weight {weight} that is no tenth")));
            }
            value.push(index(tag)?);
            value.extend((tenths as i16).to_le_bytes());
        }
        weights.push((feature.clone().into_bytes(), value));
    }
    table(out, "g2p.tagger.weights", weights)?;
    strings(out, "g2p.tags", file.tags);
    Ok(())
}

#[derive(serde::Deserialize)]
struct UnknownVocabulary {
    #[serde(rename = "in")]
    input: Vec<String>,
    #[serde(rename = "out")]
    output: Vec<String>,
    slots: usize,
    maxlen: usize,
}

/// The character transformer, in F32 whatever the voice takes: of 4,000 words 8 bits would change the reading of 21, and even
/// 16 bits that of one in some ten thousand. At 2.9 MB nothing is worth saving.
fn unknown_words(sources: &Sources, out: &mut GgufWriter) -> Result<(), ConvertError> {
    let names: UnknownVocabulary = json(sources, "oov_vocab")?;
    let model = Model::parse("oov", sources.get("oov")?)?;
    let graph = &model.graph;
    let prefix = "g2p.unknown";
    let width = graph.tensor("m.emb.weight")?.shape.get(1).copied().unwrap_or(0);
    let vector = |out: &mut GgufWriter, to: &str, from: &str, shape: &[usize]| {
        let values = graph.tensor(from)?.expect_shape(shape)?.f32s();
        write(out, &format!("{prefix}.{to}"), shape, BlockType::F32, &values)
    };
    let matrix = |out: &mut GgufWriter, to: &str, bias: &str, shape: [usize; 2]| {
        let [rows, columns] = shape;
        let weight = graph.tensor(weight_before(graph, bias)?)?.expect_shape(&[columns, rows])?;
        let values = transposed(&weight.f32s(), columns, rows);
        write(out, &format!("{prefix}.{to}.weight"), &shape, BlockType::F32, &values)?;
        vector(out, &format!("{to}.bias"), bias, &[rows])
    };
    let norm = |out: &mut GgufWriter, to: &str, from: &str| {
        vector(out, &format!("{to}.weight"), &format!("{from}.weight"), &[width])?;
        vector(out, &format!("{to}.bias"), &format!("{from}.bias"), &[width])
    };
    vector(out, "token_embd.weight", "m.emb.weight", &[names.input.len() + 1, width])?;
    vector(out, "position_embd.weight", "m.pos", &[names.maxlen, width])?;
    let mut layers = 0u32;
    while graph.tensors.contains_key(&format!("m.layers.{layers}.norm1.weight")) {
        let (from, to) = (format!("m.layers.{layers}"), format!("blk.{layers}"));
        let inner = graph.tensor(&format!("{from}.linear1.bias"))?.len();
        norm(out, &format!("{to}.attn_norm"), &format!("{from}.norm1"))?;
        matrix(out, &format!("{to}.attn_qkv"), &format!("{from}.self_attn.in_proj_bias"), [3 * width, width])?;
        matrix(out, &format!("{to}.attn_output"), &format!("{from}.self_attn.out_proj.bias"), [width, width])?;
        norm(out, &format!("{to}.ffn_norm"), &format!("{from}.norm2"))?;
        matrix(out, &format!("{to}.ffn_up"), &format!("{from}.linear1.bias"), [inner, width])?;
        matrix(out, &format!("{to}.ffn_down"), &format!("{from}.linear2.bias"), [width, inner])?;
        layers += 1;
    }
    norm(out, "output_norm", "m.norm")?;
    matrix(out, "output", "m.head.bias", [names.slots * (names.output.len() + 1), width])?;
    if layers == 0 || !width.is_multiple_of(HEADS as usize) {
        return Err(ConvertError::unsupported("oov", format!("{layers} layers of width {width}")));
    }
    out.meta("g2p.unknown.block_count", layers);
    out.meta("g2p.unknown.attention.head_count", HEADS);
    strings(out, "g2p.unknown.input", names.input);
    strings(out, "g2p.unknown.output", names.output);
    Ok(())
}

/// The weight of the matrix product to which a bias is added; the export gave it only a number.
fn weight_before<'a>(graph: &'a Graph, bias: &str) -> Result<&'a str, ConvertError> {
    let product = graph.consumers(bias).filter(|n| n.op == "Add").find_map(|add| {
        let product = add.inputs.iter().find(|i| *i != bias)?;
        graph.producer(product).filter(|n| n.op == "MatMul")
    });
    product.and_then(|n| n.inputs.get(1)).map(String::as_str).ok_or_else(|| ConvertError::MissingTensor {
        what: "the network for unknown words".into(),
        name: format!("weight that belongs to {bias}"),
    })
}

fn write(
    out: &mut GgufWriter,
    name: &str,
    shape: &[usize],
    block: BlockType,
    values: &[f32],
) -> Result<(), ConvertError> {
    out.tensor_f32(name, shape, block, values).map(|_| ()).map_err(gguf)
}

fn table(out: &mut GgufWriter, name: &str, entries: Entries) -> Result<(), ConvertError> {
    let bytes = Table::write(entries).map_err(|e| ConvertError::malformed(name, e))?;
    out.bytes(name, bytes).map(|_| ()).map_err(gguf)
}

fn strings(out: &mut GgufWriter, key: &str, values: Vec<String>) {
    out.meta(key, Value::Array(values.into_iter().map(Value::String).collect()));
}

fn json<T: DeserializeOwned>(sources: &Sources, role: &str) -> Result<T, ConvertError> {
    serde_json::from_slice(sources.get(role)?).map_err(|e| ConvertError::malformed(role, e))
}

fn packed_json<T: DeserializeOwned>(sources: &Sources, role: &str) -> Result<T, ConvertError> {
    let mut text = Vec::new();
    let mut unpacked = GzDecoder::new(sources.get(role)?).take(UNPACKED_BYTES_MAX + 1);
    unpacked.read_to_end(&mut text).map_err(|e| ConvertError::malformed(role, e))?;
    if text.len() as u64 > UNPACKED_BYTES_MAX {
        return Err(ConvertError::malformed(role, format!("it unpacks to more than {UNPACKED_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(&text).map_err(|e| ConvertError::malformed(role, e))
}

fn gguf(e: GgufError) -> ConvertError {
    ConvertError::Gguf(e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn read(words: &str) -> Result<Entries, ConvertError> {
        let vocabulary = HashMap::from([("a".to_string(), 7), ("ˈ".to_string(), 200)]);
        dictionary("lexicon_gold", serde_json::from_str(words).unwrap(), &vocabulary)
    }

    #[test]
    fn pronunciations_become_bytes() {
        let entries = read(r#"{"ah": "ˈa", "read": {"DEFAULT": "a", "VBD": "aˈ", "NOUN": null}}"#).unwrap();
        let expect: [(&str, &[u8]); 4] =
            [("ah", &[200, 7]), ("read", &[0, 7]), ("read\tNOUN", &[]), ("read\tVBD", &[7, 200])];
        let expect: Entries = expect.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.to_vec())).collect();
        assert_eq!(entries, expect);
    }

    #[test]
    fn a_dictionary_that_does_not_fit_the_voice_is_refused() {
        for words in [r#"{"x": "q"}"#, r#"{"x": ""}"#, r#"{"x": {"VBD": "a"}}"#, r#"{"x\ty": "a"}"#] {
            assert!(matches!(read(words), Err(ConvertError::Malformed { .. })), "{words}");
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        let zeros = vec![b' '; 1 << 20];
        for _ in 0..=UNPACKED_BYTES_MAX >> 20 {
            packed.write_all(&zeros).unwrap();
        }
        let mut sources = Sources::new();
        sources.insert("tagger", packed.finish().unwrap());
        let error = packed_json::<serde_json::Value>(&sources, "tagger").unwrap_err();
        assert!(error.to_string().contains("unpacks to more"), "{error}");
    }

    #[test]
    fn a_missing_source_is_named() {
        let error = attach(&Sources::new(), &mut GgufWriter::new("hibari")).unwrap_err();
        assert!(error.to_string().contains("vocab"), "{error}");
    }
}
