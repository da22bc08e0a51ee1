//! What every store must do. `open` opens the same store again each time, after the one before was dropped.

use super::{KEY_BYTES_MAX, Store, StoreError, VALUE_BYTES_MAX, Write};

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.into(), value: value.into() }
}

fn delete(key: &str) -> Write {
    Write::Delete { key: key.into() }
}

/// Runs the suite on an empty store.
pub fn check<S: Store>(open: impl Fn() -> S) {
    let mut store = open();
    assert_eq!(store.get("node/a").unwrap(), None);
    assert!(store.scan("").unwrap().is_empty());

    store.write(&[put("node/b", "2"), put("node/a", "1"), put("nodes", "x"), put("token/a", "t")]).unwrap();
    assert_eq!(store.get("node/a").unwrap().as_deref(), Some("1"));
    let pairs = |list: &[(&str, &str)]| -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    assert_eq!(store.scan("node/").unwrap(), pairs(&[("node/a", "1"), ("node/b", "2")]), "sorted, prefix exact");

    store
        .write(&[put("node/a", "3"), delete("node/b"), delete("node/none"), put("node/c", "4"), delete("node/c")])
        .unwrap();
    assert_eq!(store.scan("node/").unwrap(), pairs(&[("node/a", "3")]), "in the order of the batch");

    drop(store);
    let mut store = open();
    assert_eq!(store.scan("node/").unwrap(), pairs(&[("node/a", "3")]), "it remembers");
    assert_eq!(store.get("token/a").unwrap().as_deref(), Some("t"));
    let before = store.batches();
    store.write(&[put("token/a", "t")]).unwrap();
    assert!(store.batches() > before && before > 0, "batches are counted, over restarts too");

    let large = "x".repeat(VALUE_BYTES_MAX);
    store.write(&[put("large", &large)]).unwrap();
    assert_eq!(store.get("large").unwrap().map(|v| v.len()), Some(VALUE_BYTES_MAX));
    for refused in [put("over", &format!("{large}x")), put(&"k".repeat(KEY_BYTES_MAX + 1), "")] {
        let result = store.write(&[put("beside", "1"), refused]);
        assert!(matches!(result, Err(StoreError::TooLarge { .. })), "{result:?}");
        assert_eq!(store.get("beside").unwrap(), None, "a batch is made whole or not at all");
    }
    store.write(&[]).unwrap();
    store.write(&[delete("large"), put("ümläut", "ß")]).unwrap();
    drop(store);
    let store = open();
    assert_eq!(store.get("large").unwrap(), None);
    assert_eq!(store.get("ümläut").unwrap().as_deref(), Some("ß"));
}
