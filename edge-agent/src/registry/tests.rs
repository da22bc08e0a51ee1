//! Every attack that the metadata is there for, and damage, with a registry that signs whatever is asked of it.

#[path = "../../tests/signer/mod.rs"]
mod signer;

use super::{
    judge::Judged,
    trusted::{self, Trusted, TrustedError},
    update::update,
    *,
};
use crate::durable;
use nearfield_shared::{artefact::Stage, clock::SystemClock, wire::message::ProblemKind};
use signer::{Numbers, Signer, key};

const FAR: i64 = 1 << 37;

fn model(salt: &str) -> (Manifest, Digest) {
    let manifest = Manifest::of_file("m", Stage::Vad, "silero", salt.as_bytes());
    (manifest, Digest::of(format!("the signed manifest of {salt}").as_bytes()))
}

struct Node {
    folder: tempfile::TempDir,
    trusted: Option<Trusted>,
}

impl Node {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), trusted: None }
    }

    async fn takes(&mut self, told: &Told) -> Result<(), ProblemKind> {
        let (trusted, outcome) = update(self.trusted.as_ref(), told, &self.folder.path().join("verifying")).await;
        assert!(std::fs::read_dir(self.folder.path()).unwrap().next().is_none(), "nothing is left behind");
        self.trusted = trusted;
        outcome.map_err(|refusal| refusal.problem.kind)
    }

    fn permits(&self, (manifest, signed): &(Manifest, Digest), now: i64) -> Result<(), ProblemKind> {
        let judged = Judged::of(self.trusted.as_ref().unwrap()).map_err(|refusal| refusal.problem.kind)?;
        judged.permits(manifest, *signed, Some(now)).map_err(|refusal| refusal.problem.kind)
    }
}

#[tokio::test]
async fn what_is_listed_is_let_in_while_the_metadata_lasts_and_nothing_else_is() {
    let (signer, mut node, listed) = (Signer::new(), Node::new(), model("listed"));
    let numbers = Numbers { targets: (1, 9_000), snapshot: (1, 5_000), timestamp: (1, 1_000) };
    node.takes(&signer.whole(numbers, std::slice::from_ref(&listed))).await.unwrap();
    assert_eq!(node.permits(&listed, 999), Ok(()));
    assert_eq!(node.permits(&model("another"), 999), Err(ProblemKind::NotInRegistry));
    let longer = (Manifest { bytes: 7, ..listed.0.clone() }, listed.1);
    assert_eq!(node.permits(&longer, 999), Err(ProblemKind::NotInRegistry), "the same digest, another length");
    let other_manifest = (listed.0.clone(), Digest::of(b"signed for another interface"));
    assert_eq!(node.permits(&other_manifest, 999), Err(ProblemKind::NotInRegistry));
}

/// A freeze: what is told again and again is genuine, and ended.
#[tokio::test]
async fn each_role_that_has_ended_stops_new_models_and_newer_metadata_lets_them_in_again() {
    let (signer, listed) = (Signer::new(), model("listed"));
    let models = std::slice::from_ref(&listed);
    let all = Numbers::all(1, 9_000);
    let frozen = [
        Numbers { timestamp: (1, 1_000), ..all },
        Numbers { snapshot: (1, 1_000), ..all },
        Numbers { targets: (1, 1_000), ..all },
    ];
    for numbers in frozen {
        let mut node = Node::new();
        let told = signer.whole(numbers, models);
        node.takes(&told).await.unwrap();
        assert_eq!(
            (node.permits(&listed, 999), node.permits(&listed, 1_000)),
            (Ok(()), Err(ProblemKind::RegistryExpired))
        );
        node.takes(&told).await.unwrap();
        assert_eq!(node.permits(&listed, 1_000), Err(ProblemKind::RegistryExpired), "the same once more");
        node.takes(&signer.whole(Numbers::all(2, 9_000), models)).await.unwrap();
        assert_eq!(node.permits(&listed, 1_000), Ok(()));
    }
    let mut node = Node::new();
    let ending = Told { roots: [(1, signer.root(1, 1_000, &[]))].into(), ..signer.parts(all, models) };
    node.takes(&ending).await.unwrap();
    assert_eq!(node.permits(&listed, 1_000), Err(ProblemKind::RegistryExpired), "the root");
    let judged = Judged::of(node.trusted.as_ref().unwrap()).unwrap();
    let kind = judged.permits(&listed.0, listed.1, None).unwrap_err().problem.kind;
    assert_eq!(kind, ProblemKind::RegistryExpired, "no time is known");
}

#[tokio::test]
async fn nothing_goes_back() {
    let (signer, listed) = (Signer::new(), model("listed"));
    let models = std::slice::from_ref(&listed);
    let now = Numbers::all(5, FAR);
    let older = [
        Numbers { timestamp: (4, FAR), ..now },
        Numbers { snapshot: (4, FAR), timestamp: (6, FAR), ..now },
        Numbers { targets: (4, FAR), snapshot: (6, FAR), timestamp: (6, FAR) },
        Numbers::all(4, FAR),
    ];
    for numbers in older {
        let mut node = Node::new();
        node.takes(&signer.whole(now, models)).await.unwrap();
        let before = node.trusted.clone();
        assert_eq!(node.takes(&signer.whole(numbers, &[])).await, Err(ProblemKind::RegistryRollback));
        assert_eq!((node.trusted == before, node.permits(&listed, 0)), (true, Ok(())), "what was trusted counts on");
    }
}

#[tokio::test]
async fn parts_of_different_moments_are_refused() {
    let (signer, listed) = (Signer::new(), model("listed"));
    let older = signer.whole(Numbers::all(5, FAR), std::slice::from_ref(&listed));
    let newer = signer.whole(Numbers::all(6, FAR), &[model("newer")]);
    let same_numbers = signer.whole(Numbers::all(6, FAR), &[model("of another branch")]);
    let mixed = [
        Told { targets: older.targets.clone(), ..newer.clone() },
        Told { targets: same_numbers.targets.clone(), ..newer.clone() },
        Told { snapshot: older.snapshot.clone(), ..newer.clone() },
        Told { snapshot: same_numbers.snapshot.clone(), ..newer.clone() },
        Told { timestamp: newer.timestamp.clone(), ..older.clone() },
        Told { targets: None, ..newer.clone() },
    ];
    let mut node = Node::new();
    node.takes(&older).await.unwrap();
    for told in mixed {
        assert_eq!(node.takes(&told).await, Err(ProblemKind::RegistryInvalid));
        assert_eq!(node.permits(&listed, 0), Ok(()));
    }
    node.takes(&newer).await.unwrap();
    assert_eq!(node.permits(&listed, 0), Err(ProblemKind::NotInRegistry), "it was taken out");
    node.takes(&Told { targets: None, roots: Default::default(), ..newer }).await.expect("what was carried before");
}

#[tokio::test]
async fn a_stranger_signs_nothing_and_one_signature_of_two_is_none() {
    let (signer, stranger, listed) = (Signer::new(), Signer::new(), model("listed"));
    let models = std::slice::from_ref(&listed);
    let mut node = Node::new();
    node.takes(&signer.whole(Numbers::all(1, FAR), &[])).await.unwrap();
    let next = Numbers::all(2, FAR);
    let strangers = [
        stranger.parts(next, models),
        signer.parts_signed_by(next, models, &[&stranger.targets[0]]),
        signer.parts_signed_by(next, models, &[]),
        Signer { snapshot: key(), ..signer.again() }.parts(next, models),
        Signer { timestamp: key(), ..signer.again() }.parts(next, models),
    ];
    for told in strangers {
        assert_eq!(node.takes(&told).await, Err(ProblemKind::RegistryInvalid));
        assert_eq!(node.permits(&listed, 0), Err(ProblemKind::NotInRegistry));
    }
    let two = Signer { root: vec![key(), key()], targets: vec![key(), key()], threshold: 2, ..Signer::new() };
    let mut node = Node::new();
    node.takes(&two.whole(Numbers::all(1, FAR), &[])).await.unwrap();
    let [first, second] = &two.targets[..] else { unreachable!() };
    for signed_by in [&[first][..], &[first, first], &[first, &stranger.targets[0]]] {
        let told = two.parts_signed_by(next, models, signed_by);
        assert_eq!(node.takes(&told).await, Err(ProblemKind::RegistryInvalid));
    }
    node.takes(&two.parts_signed_by(next, models, &[first, second])).await.unwrap();
    assert_eq!(node.permits(&listed, 0), Ok(()));
    let half = Signer { root: vec![key(), key()], ..Signer::new() };
    let half = Told {
        roots: [(1, Signer { threshold: 2, root: vec![key()], ..half }.root(1, FAR, &[]))].into(),
        ..strangers_parts()
    };
    assert_eq!(Node::new().takes(&half).await, Err(ProblemKind::RegistryInvalid), "nor is such a root pinned");
}

fn strangers_parts() -> Told {
    Signer::new().parts(Numbers::all(1, FAR), &[])
}

#[tokio::test]
async fn new_root_keys_are_followed_over_versions_that_were_missed() {
    let (first, listed) = (Signer::new(), model("listed"));
    let second = Signer { root: vec![key()], ..first.again() };
    let third = Signer::new();
    let roots = [
        (1, first.root(1, FAR, &[])),
        (2, second.root(2, FAR, &[&first.root[0]])),
        (3, third.root(3, FAR, &[&second.root[0]])),
    ];
    let mut node = Node::new();
    node.takes(&first.whole(Numbers::all(1, FAR), &[])).await.unwrap();
    let parts = third.parts(Numbers::all(2, FAR), std::slice::from_ref(&listed));
    let gap = Told { roots: [roots[0].clone(), roots[2].clone()].into(), ..parts.clone() };
    assert_eq!(node.takes(&gap).await, Err(ProblemKind::RegistryInvalid), "one between is missing");
    let unsigned = Told { roots: [(2, third.root(2, FAR, &[]))].into(), ..parts.clone() };
    assert_eq!(node.takes(&unsigned).await, Err(ProblemKind::RegistryInvalid), "the old key has not signed it");
    node.takes(&Told { roots: roots.clone().into(), ..parts.clone() }).await.unwrap();
    assert_eq!(node.permits(&listed, 0), Ok(()));
    let back = Told { roots: [roots[0].clone()].into(), ..first.parts(Numbers::all(9, FAR), &[]) };
    assert_eq!(node.takes(&back).await, Err(ProblemKind::RegistryInvalid), "old keys sign nothing any more");

    // A node that is enrolled now is given the newest root alone.
    let mut young = Node { trusted: Some(Trusted::pinned(&roots[2].1).unwrap()), ..Node::new() };
    assert_eq!(young.permits(&listed, 0), Err(ProblemKind::NotInRegistry), "nothing was told yet");
    young.takes(&Told { roots: roots.into(), ..parts }).await.unwrap();
    assert_eq!(young.permits(&listed, 0), Ok(()));
}

/// Whoever had the daemon's keys can sign numbers beyond all others; new keys end that.
#[tokio::test]
async fn new_keys_of_the_daemon_bring_a_node_back_from_numbers_too_high() {
    let (first, listed) = (Signer::new(), model("listed"));
    let mut node = Node::new();
    node.takes(&first.whole(Numbers::all(u64::MAX - 1, FAR), &[])).await.unwrap();
    let second = Signer { snapshot: key(), timestamp: key(), ..first.again() };
    let root = Told { roots: [(2, second.root(2, FAR, &[]))].into(), ..Default::default() };
    assert_eq!(node.takes(&root).await, Err(ProblemKind::RegistryInvalid), "nothing but a root");
    assert_eq!(node.permits(&listed, 0), Err(ProblemKind::NotInRegistry), "what the old keys signed counts no more");
    node.takes(&second.parts(Numbers::all(2, FAR), std::slice::from_ref(&listed))).await.expect("the root was kept");
    assert_eq!(node.permits(&listed, 0), Ok(()));
}

#[tokio::test]
async fn metadata_without_end_is_refused() {
    let (signer, listed) = (Signer::new(), model("listed"));
    let mut node = Node::new();
    let good = signer.whole(Numbers::all(1, FAR), std::slice::from_ref(&listed));
    node.takes(&good).await.unwrap();
    let padded = |text: &str, bytes: usize| format!("{text}{}", " ".repeat(bytes));
    let huge = [
        Told { timestamp: padded(&good.timestamp, 16 << 10), ..good.clone() },
        Told { snapshot: padded(&good.snapshot, 1), ..good.clone() },
        Told { targets: good.targets.as_deref().map(|text| padded(text, 4 << 20)), ..good.clone() },
        Told { roots: [(2, padded(&signer.root(2, FAR, &[]), 64 << 10))].into(), ..good.clone() },
        Told { roots: (1..=65).map(|version| (version, signer.root(version, FAR, &[]))).collect(), ..good.clone() },
        Told { timestamp: "[".repeat(10_000), ..good.clone() },
    ];
    for told in huge {
        assert_eq!(node.takes(&told).await, Err(ProblemKind::RegistryInvalid));
        assert_eq!(node.permits(&listed, 0), Ok(()));
    }
}

#[tokio::test]
async fn a_damaged_file_is_told_from_none_whatever_byte_it_is_and_a_power_cut_leaves_old_or_new() {
    let (signer, mut node) = (Signer::new(), Node::new());
    node.takes(&signer.whole(Numbers::all(1, FAR), &[])).await.unwrap();
    let old = node.trusted.clone().unwrap();
    node.takes(&signer.whole(Numbers::all(2, FAR), &[])).await.unwrap();
    let new = node.trusted.clone().unwrap();
    let path = node.folder.path().join("registry.json");
    assert!(matches!(trusted::load(&path), Ok(None)));
    old.store(&path).unwrap();
    let of_old = std::fs::read(&path).unwrap();
    new.store(&path).unwrap();
    let of_new = std::fs::read(&path).unwrap();
    old.store(&path).unwrap();
    for cut in [0, of_new.len() / 2, of_new.len()] {
        // The process dies while the new content is written beside its place, or before it is renamed.
        std::mem::forget(durable::prepare(&path, &of_new[..cut], 0o600).unwrap());
        assert_eq!(trusted::load(&path).unwrap().as_ref(), Some(&old));
    }
    new.store(&path).expect("over the leftover");
    assert_eq!(trusted::load(&path).unwrap().as_ref(), Some(&new));
    for at in (0..of_old.len()).step_by(37) {
        let mut damaged = of_old.clone();
        damaged[at] ^= 0x02;
        std::fs::write(&path, damaged).unwrap();
        let error = trusted::load(&path).unwrap_err();
        assert!(matches!(error, TrustedError::Damaged { .. }), "byte {at}");
        assert!(error.to_string().contains("remove the file"), "{error}");
    }
    std::fs::write(&path, &of_old[..of_old.len() / 2]).unwrap();
    assert!(matches!(trusted::load(&path), Err(TrustedError::Damaged { .. })), "a cut file");
}

fn registry(dir: &StateDir, plane_unix_s: i64) -> Registry {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let plane_time = Some((plane_unix_s, clock.elapsed()));
    let (_, link) = watch::channel(LinkState { plane_time, ..LinkState::default() });
    Registry::open(dir, clock, link)
}

#[tokio::test]
async fn the_registry_of_a_node_holds_over_restarts_and_a_damaged_one_stops_new_models_only() {
    let folder = tempfile::tempdir().unwrap();
    let dir = StateDir::open(&folder.path().join("node")).unwrap();
    let (signer, listed) = (Signer::new(), model("listed"));
    let models = [listed.clone()];
    let first = registry(&dir, 100);
    first.permits(&[model("anything")]).await.expect("a control plane without metadata");
    first.tell(&signer.whole(Numbers::all(2, 1_000), &[]));
    // Told before the first was looked at: roots of the one and the rest of the other belong together.
    first.tell(&signer.parts(Numbers::all(3, 1_000), &models));
    first.permits(&models).await.unwrap();
    assert_eq!(first.shown(), Some(RegistryState { version: 3, ends_unix_s: 1_000, problem: None }));
    first.tell(&signer.parts(Numbers::all(1, 1_000), &models));
    first.permits(&models).await.expect("trusted metadata lists it");
    let why = first.permits(&[model("new")]).await.unwrap_err();
    assert_eq!((why.problem.kind, why.problem.artefact), (ProblemKind::RegistryRollback, Some(model("new").0.digest)));
    assert!(first.shown().unwrap().problem.is_some());

    let later = registry(&dir, 1_000);
    later.permits(&[]).await.expect("nothing new is asked for");
    assert_eq!(later.permits(&models).await.unwrap_err().problem.kind, ProblemKind::RegistryExpired);
    later.tell(&signer.parts(Numbers::all(2, 9_000), &models));
    assert_eq!(
        later.permits(&models).await.unwrap_err().problem.kind,
        ProblemKind::RegistryRollback,
        "after a restart"
    );
    later.tell(&signer.parts(Numbers::all(4, 9_000), &models));
    later.permits(&models).await.unwrap();

    std::fs::write(dir.registry(), "{}").unwrap();
    let damaged = registry(&dir, 100);
    damaged.tell(&signer.whole(Numbers::all(9, 9_000), &models));
    let why = damaged.permits(&models).await.unwrap_err();
    assert_eq!(why.problem.kind, ProblemKind::RegistryDamaged);
    assert!(why.words.contains("remove the file"), "{}", why.words);
    assert_eq!(std::fs::read(dir.registry()).unwrap(), b"{}", "it stays for whoever looks");
}
