use super::{records::tests::MemoryRecords, *};
use nearfield_shared::{
    pii::Pii,
    policy::{Policy, decide},
};
use std::path::Path;

const NOW_S: u64 = 1_700_000_000;

fn policy(retention_days: u32) -> Policy {
    Policy {
        serves_countries: vec!["*".into()],
        store_transcripts: true,
        retention_days,
        metrics_group_min: 5,
        notices: vec![],
    }
}

fn permit(request: Request) -> Permit {
    decide(Some(&policy(30)), &request).expect("permitted")
}

fn transcript(call: u128, words: &str) -> Transcript {
    Transcript {
        call: Uuid::from_u128(call),
        assistant: "front-desk".into(),
        said: vec![
            Utterance { speaker: Speaker::Caller, text: Pii::new(words.into()) },
            Utterance { speaker: Speaker::Assistant, text: Pii::new("Certainly.".into()) },
        ],
    }
}

fn vault_in(dir: &Path) -> Vault {
    let (records, _) = SledRecords::open(&dir.join("vault")).expect("open");
    Vault::with(Box::new(records), KeyFile::at(&dir.join("vault.key"))).expect("vault")
}

fn files_below(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).expect("dir") {
        let path = entry.expect("entry").path();
        match path.is_dir() {
            true => bytes.extend(files_below(&path)),
            false => bytes.extend(std::fs::read(&path).expect("file")),
        }
    }
    bytes
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn what_was_said_comes_back_under_a_permit_and_stands_nowhere_in_the_clear() {
    let dir = tempfile::tempdir().expect("dir");
    let vault = vault_in(dir.path());
    let said = transcript(1, "the zebra code is 4711");
    let store = permit(Request::StoreTranscript { consent: true });
    vault.store(&store, said.clone(), NOW_S).await.expect("stored");
    let read = permit(Request::ReadTranscript);
    assert_eq!(vault.show(&read, said.call).await.expect("shown"), said);
    assert!(!contains(&files_below(dir.path()), b"zebra"), "the words stand on the disk in the clear");
    assert!(matches!(vault.show(&store, said.call).await, Err(VaultError::WrongPermit)));
    assert!(matches!(vault.store(&read, said.clone(), NOW_S).await, Err(VaultError::WrongPermit)));
    assert!(matches!(vault.erase(&read, None).await, Err(VaultError::WrongPermit)));
    assert!(matches!(vault.show(&read, Uuid::from_u128(9)).await, Err(VaultError::NotFound(_))));
}

#[test]
fn no_permit_is_made_without_consent_policy_or_retention() {
    let consent = Request::StoreTranscript { consent: true };
    assert!(decide(Some(&policy(30)), &Request::StoreTranscript { consent: false }).is_err());
    assert!(decide(Some(&policy(0)), &consent).is_err());
    assert!(decide(Some(&Policy { store_transcripts: false, ..policy(30) }), &consent).is_err());
    assert!(decide(None, &consent).is_err());
}

#[tokio::test]
async fn an_erased_record_cannot_be_opened_even_from_an_old_copy_of_the_database() {
    let dir = tempfile::tempdir().expect("dir");
    let vault = vault_in(dir.path());
    let store = permit(Request::StoreTranscript { consent: true });
    for call in [1, 2] {
        vault.store(&store, transcript(call, "words"), NOW_S).await.expect("stored");
    }
    // The old copy: what a forensic look at the disk could bring back after the erase.
    let old = vault.inner.lock().expect("lock").records.scan().expect("scan");
    let erase = permit(Request::EraseTranscript);
    assert_eq!(vault.erase(&erase, Some(Uuid::from_u128(1))).await.expect("erased"), 1);
    let read = permit(Request::ReadTranscript);
    assert!(matches!(vault.show(&read, Uuid::from_u128(1)).await, Err(VaultError::NotFound(_))));
    vault.show(&read, Uuid::from_u128(2)).await.expect("the other one is still there");
    {
        let mut inner = vault.inner.lock().expect("lock");
        let back = old.into_iter().map(|(key, value)| (key, Some(value.expect("whole")))).collect();
        inner.records.apply(back).expect("put back");
    }
    for call in [1, 2] {
        let shown = vault.show(&read, Uuid::from_u128(call)).await;
        assert!(matches!(shown, Err(VaultError::Seal(SealError::DoesNotOpen))), "{:?}", shown.map(|_| ()));
    }
    assert!(matches!(vault.erase(&erase, Some(Uuid::from_u128(7))).await, Err(VaultError::NotFound(_))));
    assert_eq!(vault.erase(&erase, None).await.expect("all"), 2);
    assert_eq!(vault.list().await.expect("list"), []);
}

#[tokio::test]
async fn records_go_when_their_time_is_over_or_the_policy_becomes_stricter() {
    let dir = tempfile::tempdir().expect("dir");
    let vault = vault_in(dir.path());
    let store = permit(Request::StoreTranscript { consent: true });
    vault.store(&store, transcript(1, "old"), NOW_S).await.expect("stored");
    vault.store(&store, transcript(2, "new"), NOW_S + 10 * DAY_S).await.expect("stored");
    let left = |vault: Vault| async move {
        vault.list().await.expect("list").iter().map(|k| k.call.as_u128()).collect::<Vec<_>>()
    };
    assert_eq!(vault.sweep(NOW_S + 30 * DAY_S - 1, None).await.expect("sweep"), 0);
    assert_eq!(left(vault.clone()).await, [1, 2]);
    assert_eq!(vault.sweep(NOW_S + 30 * DAY_S, None).await.expect("sweep"), 1);
    assert_eq!(left(vault.clone()).await, [2]);
    assert_eq!(vault.sweep(NOW_S + 30 * DAY_S, Some(20)).await.expect("sweep"), 1);
    assert_eq!(left(vault).await, [] as [u128; 0]);
}

#[tokio::test]
async fn a_record_whose_life_was_lengthened_by_hand_does_not_open() {
    let dir = tempfile::tempdir().expect("dir");
    let vault = vault_in(dir.path());
    let store = permit(Request::StoreTranscript { consent: true });
    vault.store(&store, transcript(1, "words"), NOW_S).await.expect("stored");
    {
        let mut inner = vault.inner.lock().expect("lock");
        let key = Uuid::from_u128(1).as_bytes().to_vec();
        let mut record = Record::decode(&inner.records.get(&key).expect("get").expect("there")).expect("record");
        record.expires_at_s += 1;
        inner.records.apply(vec![(key, Some(record.encode()))]).expect("apply");
    }
    let shown = vault.show(&permit(Request::ReadTranscript), Uuid::from_u128(1)).await;
    assert!(matches!(shown, Err(VaultError::Seal(SealError::DoesNotOpen))));
}

#[tokio::test]
async fn an_erase_that_fails_in_the_middle_loses_nothing_and_is_finished_later() {
    let dir = tempfile::tempdir().expect("dir");
    let key_file = || KeyFile::at(&dir.path().join("vault.key"));
    let mut records = MemoryRecords::default();
    let store = permit(Request::StoreTranscript { consent: true });
    let (read, erase) = (permit(Request::ReadTranscript), permit(Request::EraseTranscript));
    {
        let vault = Vault::with(Box::new(std::mem::take(&mut records)), key_file()).expect("vault");
        vault.store(&store, transcript(1, "one"), NOW_S).await.expect("stored");
        vault.store(&store, transcript(2, "two"), NOW_S).await.expect("stored");
        for (key, value) in vault.inner.lock().expect("lock").records.scan().expect("scan") {
            records.values.insert(key, value.expect("whole"));
        }
    }
    // A disk that is full once, in the middle of the erase.
    records.fail_next_apply = true;
    {
        let inner = Inner {
            records: Box::new(std::mem::take(&mut records)),
            key: key_file().read_or_create().expect("keys").current,
            key_file: key_file(),
            previous: None,
            count: 2,
        };
        let vault = Vault { inner: Arc::new(Mutex::new(inner)) };
        assert!(matches!(vault.erase(&erase, None).await, Err(VaultError::Records(_))));
        vault.show(&read, Uuid::from_u128(1)).await.expect("still readable");
        vault.store(&store, transcript(3, "three"), NOW_S).await.expect("stored");
        vault.show(&read, Uuid::from_u128(3)).await.expect("readable");
        assert_eq!(vault.erase(&erase, Some(Uuid::from_u128(1))).await.expect("now"), 1);
        vault.show(&read, Uuid::from_u128(2)).await.expect("readable");
        vault.show(&read, Uuid::from_u128(3)).await.expect("readable");
    }
    // A crash in the middle: both keys in the file, the records still under the old one.
    let old = key_file().read_or_create().expect("keys").current;
    let new = Key::generate().expect("key");
    let mut records = MemoryRecords::default();
    {
        let vault = Vault::with(Box::new(MemoryRecords::default()), key_file()).expect("vault");
        vault.store(&store, transcript(4, "four"), NOW_S).await.expect("stored");
        for (key, value) in vault.inner.lock().expect("lock").records.scan().expect("scan") {
            records.values.insert(key, value.expect("whole"));
        }
    }
    key_file().begin_rotation(&new, &old).expect("begin");
    let vault = Vault::with(Box::new(records), key_file()).expect("reopened");
    vault.show(&read, Uuid::from_u128(4)).await.expect("readable after the crash");
    assert!(key_file().read_or_create().expect("keys").previous.is_none(), "the rotation was finished");
}

#[tokio::test]
async fn a_transcript_that_is_too_long_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let vault = vault_in(dir.path());
    let long = transcript(1, &"a".repeat(TRANSCRIPT_BYTES_MAX));
    let stored = vault.store(&permit(Request::StoreTranscript { consent: true }), long, NOW_S).await;
    assert!(matches!(stored, Err(VaultError::TooLong { .. })));
}
