//! A backup taken while the plane runs is of one moment, and what is restored from it goes on without a person at any node.

use super::{
    agent::{Agent, enrolled, renew_alone, renew_on},
    audit::entries,
    command_line::Served,
    manual_clock::ManualClock,
    plane::TestPlane,
};
use control_plane::{
    admin_client::AdminClient,
    backup::{self, Source},
    config::Config,
    fleet::{
        RESTORED_SKIP,
        accounts::{AccountName, Role},
    },
};
use nearfield_shared::{clock::Clock as _, desired::Generation, link::Seed, wire::message::RefusedCode};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

/// Backs a running plane up.
async fn backed_up(plane: &TestPlane) -> PathBuf {
    let folder = plane.dir.root().with_file_name("backup");
    plane.admin.export().await.unwrap();
    backup::take(&plane.dir, Source::Exported, &folder).unwrap();
    folder
}

/// Starts the plane from a backup that is restored at this time, as after the loss of its disk. Into another folder, because what is left of the old server
/// in this process may still write to its own.
async fn lost_and_restored(plane: &mut TestPlane, backup: &Path, folder: &str, now: i64) {
    plane.stop().await;
    plane.dir = backup::restore(backup, &plane.dir.root().with_file_name(folder), now).unwrap().dir;
    plane.start_again().await;
}

#[tokio::test]
async fn after_a_restore_generations_go_on_and_no_node_needs_a_person() {
    let clock = ManualClock::at(NOW);
    let mut plane = TestPlane::at(clock.clone(), Config { heartbeat_s: 30.0, ..Config::on_loopback() }).await;
    plane.apply(&plane.files()).await;
    let [stays, renews, away] = ["stays", "renews", "away"].map(|name| (name, "eu"));
    let stays = enrolled(&plane, stays.1, stays.0).await;
    let renews = Agent::new(&plane, renews.1, renews.0).await;
    let away = enrolled(&plane, away.1, away.0).await;
    let folder = backed_up(&plane).await;

    // What the backup does not know of.
    clock.pass_days(3);
    plane.apply(&plane.files_with("later")).await;
    let renewed = renew_on(&renews.connection, &renews.identity).await.unwrap();
    let mut agent = Agent::connect(&plane, &renewed, 1).await;
    let (nonce, newest) = agent.desired().await;
    agent.ack(nonce, newest.generation).await;
    let twice = renew_on(&agent.connection, &renewed).await.unwrap();
    let new = enrolled(&plane, "us", "new").await;
    let moved = enrolled(&plane, "us", "away").await;
    clock.pass_days(1);
    drop(agent);
    lost_and_restored(&mut plane, &folder, "first", clock.unix_s()).await;

    let mut agent = Agent::connect(&plane, &twice, newest.generation.0).await;
    let state = agent.desired().await.1;
    assert!(
        state.generation > newest.generation && state.generation > Generation(RESTORED_SKIP),
        "{}",
        state.generation
    );
    // Whoever was replaced stays out, in whatever order they come.
    for old in [&renews.identity, &renewed] {
        assert_eq!(Agent::greeted(&plane, old).await.refusal().await.code, RefusedCode::Revoked);
    }
    drop(Agent::connect(&plane, &away, 1).await);
    drop(Agent::connect(&plane, &moved, 1).await);
    assert_eq!(Agent::greeted(&plane, &away).await.refusal().await.code, RefusedCode::Revoked);
    assert_eq!(plane.node("away").await.region.as_str(), "us");
    drop(Agent::connect(&plane, &stays, 1).await);
    // One that has been away since, and longer than its certificate lasts.
    clock.pass_days(30);
    let new = renew_alone(&plane, &new).await.unwrap();
    drop(Agent::connect(&plane, &new, 1).await);
    let told: Vec<_> = entries(&plane).await.into_iter().map(|entry| (entry.what, entry.object)).collect();
    for (what, object) in [
        ("store.restored", "store"),
        ("node.adopt", "node/renews"),
        ("node.adopt", "node/away"),
        ("node.adopt", "node/new"),
    ] {
        assert!(told.contains(&(what.into(), object.into())), "{what} {object}: {told:?}");
    }
    assert_eq!(plane.admin.verify_audit().await.unwrap().problem, None);

    // What is signed after the restore is known, so nothing unknown of that time is good.
    let before = enrolled(&plane, "eu", "late").await;
    lost_and_restored(&mut plane, &folder, "second", NOW + 5 * DAY).await;
    assert_eq!(Agent::greeted(&plane, &before).await.refusal().await.code, RefusedCode::UnknownNode);
}

#[tokio::test]
async fn whoever_was_shut_out_after_the_last_export_stays_out_when_the_store_breaks() {
    let mut plane = TestPlane::new().await;
    let known = enrolled(&plane, "eu", "known").await;
    plane.admin.export().await.unwrap();
    let export = std::fs::read(plane.dir.snapshot()).unwrap();
    let unknown = enrolled(&plane, "eu", "unknown").await;
    let renewed = renew_alone(&plane, &known).await.unwrap();
    let good = enrolled(&plane, "eu", "good").await;
    for name in ["known", "unknown"] {
        plane.admin.revoke(name, Some("stolen".into())).await.unwrap();
    }
    plane.stop().await;
    std::fs::write(plane.dir.snapshot(), export).unwrap();
    std::fs::write(plane.dir.store().join("db"), [0x5a; 100_000]).unwrap();
    plane.start_again().await;
    for identity in [&known, &renewed, &unknown] {
        let refused = Agent::greeted(&plane, identity).await.refusal().await;
        assert!(matches!(refused.code, RefusedCode::Revoked | RefusedCode::UnknownNode), "{refused:?}");
    }
    drop(Agent::connect(&plane, &good, 1).await);
    // What is acknowledged from now on is in the store and not set aside with it again.
    let again = enrolled(&plane, "eu", "again").await;
    plane.start_again().await;
    drop(Agent::connect(&plane, &again, 1).await);
}

#[test]
fn the_commands_work_beside_a_running_server_and_without_one() {
    let mut served = Served::new();
    served.good(&["apply"]);
    served.good(&["admin", "add", "a", "--role", "viewer"]);
    let lines = |text: &str| text.split(", ").find(|part| part.contains("lines of audit")).unwrap().to_owned();
    let said = served.good(&["backup", "first"]);
    assert!(said.contains("1 regions, 0 nodes, 6 models") && said.contains("keys"), "{said}");
    served.good(&["admin", "add", "b", "--role", "viewer"]);
    assert!(lines(&served.good(&["verify"])).starts_with("9 lines"));
    assert!(lines(&served.good(&["verify", "first"])).starts_with("8 lines"), "{said}");
    served.kill();
    served.good(&["backup", "second"]);
    assert!(lines(&served.good(&["verify"])).starts_with("9 lines"));
    assert_eq!(served.json(&["verify", "second", "--json"])["audit_lines"], 9);

    let refused = served.run(&["restore", "first"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(refused.status.code() == Some(1) && said.contains("not empty"), "{said}");
    let said = served.good(&["--state", "elsewhere", "restore", "first"]);
    assert!(said.contains("revoke again") && said.contains("elsewhere serve"), "{said}");
    assert!(served.good(&["--state", "elsewhere", "verify"]).contains("9 lines"), "and that it was restored");
    let said = String::from_utf8(served.run(&["backup", "first"]).stderr).unwrap();
    assert!(said.contains("not there yet"), "{said}");
    let said = String::from_utf8(served.run(&["verify", "regions"]).stderr).unwrap();
    assert!(said.contains("is not a backup"), "{said}");

    // A changed audit is told of and kept, and does not keep anybody from a backup.
    let path = served.dir().audit();
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace("account/a", "account/x")).unwrap();
    let failed = served.run(&["verify"]);
    assert!(!failed.status.success() && String::from_utf8_lossy(&failed.stderr).contains("line 8"), "{failed:?}");
    assert!(served.good(&["backup", "third"]).contains("line 8"));
}

/// Kills the server at many moments of many changes at once: whatever was acknowledged is there afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_acknowledged_is_lost_whenever_it_is_killed() {
    let mut served = Served::new();
    served.good(&["apply"]);
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    let mut seed = Seed(7);
    for round in 0..8 {
        let token = served.dir().admin_token().unwrap();
        let address = served.admin_address().parse().unwrap();
        let count = Arc::new(AtomicU64::new(0));
        let adding: Vec<_> = (0..4)
            .map(|worker| {
                let client = AdminClient::at(address, token.clone()).unwrap();
                tokio::spawn(change_until_it_dies(client, format!("r{round}-{worker}"), count.clone()))
            })
            .collect();
        // At least something is acknowledged; then at any moment.
        while count.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_micros(seed.next_u64() % 40_000)).await;
        served.kill_and_serve();
        for changed in adding {
            let (added, removed) = changed.await.unwrap();
            there.extend(added);
            gone.extend(removed);
        }
        let listed = served.json(&["admin", "list", "--json"]);
        let listed: Vec<_> =
            listed.as_array().unwrap().iter().map(|account| account["name"].as_str().unwrap()).collect();
        for name in &there {
            assert!(listed.contains(&name.to_string().as_str()), "round {round}: {name} was acknowledged and is gone");
        }
        for name in &gone {
            assert!(!listed.contains(&name.to_string().as_str()), "round {round}: {name} was removed and is back");
        }
        served.good(&["audit", "verify"]);
        served.good(&["verify"]);
    }
    println!("{} changes were acknowledged", there.len() + 2 * gone.len());
}

/// Adds an account after the other, and removes the one before, until the server does not answer: what is acknowledged as added and not asked to be removed,
/// and what is acknowledged as removed.
async fn change_until_it_dies(
    client: AdminClient,
    names: String,
    count: Arc<AtomicU64>,
) -> (Vec<AccountName>, Vec<AccountName>) {
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for n in 0.. {
        let name: AccountName = format!("{names}-{n}").parse().unwrap();
        if client.add_account(name.clone(), Role::Viewer).await.is_err() {
            break;
        }
        count.fetch_add(1, Ordering::Relaxed);
        if let Some(before) = there.pop() {
            if client.remove_account(&before).await.is_err() {
                there.push(name);
                break;
            }
            gone.push(before);
        }
        there.push(name);
    }
    (there, gone)
}

/// Kills backups and restores at many moments: what has the name that was asked for is whole, and the next attempt succeeds.
#[test]
fn a_killed_backup_or_restore_leaves_nothing_that_counts() {
    let served = Served::new();
    served.good(&["apply"]);
    let timed = |args: &[&str]| {
        let began = Instant::now();
        served.good(args);
        began.elapsed()
    };
    let longest = [timed(&["backup", "whole"]), timed(&["--state", "first", "restore", "whole"])];
    let (mut seed, mut cut) = (Seed(11), 0);
    for n in 0..5 {
        let (backup, state) = (format!("b{n}"), format!("s{n}"));
        let attempts = [(vec!["backup", &backup], &backup), (vec!["--state", &state, "restore", "whole"], &state)];
        for ((args, made), longest) in attempts.into_iter().zip(longest) {
            let mut child = served.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(longest.mul_f64((seed.next_u64() % 1200) as f64 / 1000.0));
            child.kill().unwrap();
            child.wait().unwrap();
            if !served.dir().root().with_file_name(made).exists() {
                cut += 1;
                served.good(&args);
            }
            if args[0] == "backup" {
                served.good(&["verify", made]);
            } else {
                served.good(&["--state", made, "verify"]);
            }
        }
    }
    println!("{cut} of 10 were killed before they were whole");
}
