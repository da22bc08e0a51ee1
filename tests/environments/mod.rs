//! Other people's packages in environments that the tests make, each once for a build folder, and the scripts that use them.
#![allow(missing_docs, dead_code, reason = "each test uses what it needs")]

use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The python of a virtual environment with the package, which is pinned as `name==version`.
pub fn python(folder: &Path, package: &str) -> PathBuf {
    let name = package.split(['[', '=']).next().unwrap_or(package);
    let venv = folder.join(format!("{name}-{}", package.rsplit("==").next().unwrap_or("any")));
    let python = venv.join("bin/python");
    once(&venv, |venv| {
        run(
            Command::new("python3").args(["-m", "venv"]).arg(venv),
            "make a virtual environment (Debian: apt install python3-venv)",
        );
        run(
            Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", package]),
            "install the package; is a package index reachable?",
        );
    });
    python
}

/// A folder with the packages of npm, the first of which gives it its name; nothing where this machine has no node and npm.
pub fn project(folder: &Path, packages: &[&str]) -> Option<PathBuf> {
    let there = |program: &str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !there("node") || !there("npm") {
        println!("SKIPPED: there is no `node` or no `npm` on this machine (Debian: apt install nodejs npm)");
        return None;
    }
    let project = folder.join(packages[0].replace(['@', '/'], "-"));
    once(&project, |project| {
        std::fs::create_dir(project).expect("the build folder can be written");
        std::fs::write(project.join("package.json"), "{}").expect("the build folder can be written");
        let install = ["install", "--no-audit", "--no-fund", "--silent"];
        run(
            Command::new("npm").args(install).args(packages).current_dir(project),
            "install the package; is a package registry reachable?",
        );
    });
    Some(project)
}

/// Makes a folder that is not there, or was not finished. One test process makes it, others wait: two would break what both fill.
fn once(made: &Path, make: impl FnOnce(&Path)) {
    let lock = std::fs::File::create(made.with_added_extension("lock")).expect("the build folder can be written");
    lock.lock().expect("a lock");
    let done = made.join("ready");
    if !done.exists() {
        let _left_over = std::fs::remove_dir_all(made);
        make(made);
        std::fs::write(done, "").expect("the build folder can be written");
    }
}

fn run(command: &mut Command, what: &str) -> String {
    // Scripts import one another, and leave nothing beside them.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let output = command.output().unwrap_or_else(|e| panic!("could not {what}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "could not {what}:\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A script below `tests/`.
pub fn script(name: &str) -> PathBuf {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let found = folders.map(|dir| dir.join("tests").join(name)).find(|script| script.is_file());
    found.unwrap_or_else(|| panic!("tests/{name} is in the repository"))
}

/// A script in a project of npm: packages are looked for beside the script.
pub fn script_in(project: &Path, name: &str) -> PathBuf {
    let script = script(name);
    let copied = project.join(script.file_name().expect("a script has a name"));
    std::fs::copy(script, &copied).expect("the build folder can be written");
    copied
}

/// Runs a script, and reads the JSON that it prints.
pub fn printed(command: &mut Command, what: &str) -> Value {
    serde_json::from_str(run(command, what).trim()).expect("the script prints JSON")
}
