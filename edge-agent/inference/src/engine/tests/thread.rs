//! The thread around the worker: it stops when the engine is dropped, and a panic does not end it.

use super::*;

fn engine() -> (Engine, Script) {
    let script = Script::new();
    (Engine::start_with(Box::new(script.clone()), "a fake".into(), Limits::default()).unwrap(), script)
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

async fn go_live(handle: &EngineHandle, stage: Stage) {
    let candidate = handle.load(file(stage.as_str(), &[]), stage).await.unwrap();
    handle.activate(candidate).await.unwrap();
}

#[test]
fn jobs_are_answered_from_another_thread() {
    let (engine, _) = engine();
    let handle = engine.handle();
    block_on(async {
        go_live(&handle, Stage::Asr).await;
        go_live(&handle, Stage::Llm).await;
        assert_eq!(handle.transcribe(spell("ab"), &Cancel::new()).await, Ok("asr:ab".into()));
        let mut answer = handle.generate(vec![ChatMessage::new("user", "hello")], 100, &Cancel::new()).unwrap();
        let mut text = String::new();
        while let Some(piece) = answer.recv().await {
            text += &piece.unwrap();
        }
        assert_eq!(text, "hello");
    });
}

#[test]
fn the_thread_survives_a_panic() {
    let (engine, _) = engine();
    let handle = engine.handle();
    block_on(async {
        go_live(&handle, Stage::Asr).await;
        for _ in 0..3 {
            assert_eq!(handle.transcribe(spell("P"), &Cancel::new()).await, Err(EngineError::WorkerDied));
            assert_eq!(handle.transcribe(spell("ab"), &Cancel::new()).await, Ok("asr:ab".into()));
        }
    });
    assert_eq!(handle.snapshot().stage(Stage::Asr).deaths, 3);
}

#[test]
fn dropping_the_engine_tells_whoever_waits_and_refuses_the_rest() {
    let (engine, _) = engine();
    let handle = engine.handle();
    block_on(async {
        go_live(&handle, Stage::Llm).await;
        go_live(&handle, Stage::Vad).await;
        let mut stream = handle.open_vad().unwrap();
        let candidate = handle.load(file("asr", &[]), Stage::Asr).await.unwrap();
        let answers: Vec<_> = (0..8)
            .map(|_| handle.generate(vec![ChatMessage::new("user", "x".repeat(60_000))], 512, &Cancel::new()).unwrap())
            .collect();
        drop(engine);
        for mut answer in answers {
            let mut last = None;
            while let Some(item) = answer.recv().await {
                last = Some(item);
            }
            // It was told, or it was done before the engine stopped.
            assert!(matches!(last, Some(Err(EngineError::WorkerDied)) | Some(Ok(_))), "{last:?}");
        }
        assert_eq!(handle.transcribe(spell("a"), &Cancel::new()).await, Err(EngineError::WorkerDied));
        assert_eq!(handle.open_vad().err(), Some(EngineError::WorkerDied));
        assert_eq!(stream.push(&[0.0; 512]).await, Err(EngineError::WorkerDied));
        assert_eq!(handle.activate(candidate).await, Err(EngineError::WorkerDied));
        assert!(handle.snapshot().closed);
    });
}
