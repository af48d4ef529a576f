//! The `OpenAPI` document against the real program: schemathesis tries everything that the document says.

use std::path::PathBuf;

use tokio::process::Command;

use super::shop::{ALL, Shop, texts};

/// Maximum number of examples of each endpoint.
const EXAMPLES: &str = "30";

/// The program of schemathesis, if `scripts/prepare` could install it.
fn schemathesis() -> Option<PathBuf> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../scripts/schemathesis/prepare");
    let output = std::process::Command::new(script).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let folder = String::from_utf8(output.stdout).unwrap();
    let folder = folder.trim();
    (!folder.is_empty()).then(|| PathBuf::from(folder).join("schemathesis"))
}

#[tokio::test(flavor = "multi_thread")]
async fn document_says_what_the_program_does() {
    let Some(program) = schemathesis() else {
        println!("SKIPPED: there is no schemathesis, as PyPI cannot be reached");
        return;
    };
    let shop = Shop::open().await;
    let page = shop.json(ALL, "/search").await;
    let (event, letter, job) = (
        texts(&page, "id").remove(0),
        texts(&shop.json(ALL, "/dead-letters").await, "id").remove(0),
        texts(&shop.json(ALL, "/jobs").await, "id").remove(0),
    );
    // Ids of what is there, so that not all single items are missing.
    let parameter = |path: &str, id: &str| {
        format!(
            "[[operations]]\ninclude-path = \"{path}\"\n[operations.parameters]\n\"path.id\" = {id}\n"
        )
    };
    let folder = tempfile::TempDir::new().unwrap();
    // A query or a cursor may be refused that is text of the right length.
    let config = format!(
        "{}{}{}[[operations]]\ninclude-path = \"/tail\"\n[operations.parameters]\n\"query.wait\" = 0\n\
         [[operations]]\ninclude-path = \"/search\"\n\
         [operations.checks.positive_data_acceptance]\nexpected-statuses = [200, 400]\n",
        parameter("/events/{id}", &format!("\"{event}\"")),
        parameter("/dead-letters/{id}", &letter),
        parameter("/jobs/{id}", &format!("\"{job}\"")),
    );
    let file = folder.path().join("schemathesis.toml");
    std::fs::write(&file, config).unwrap();
    let url = format!("http://{}/api/observers/openapi.json", shop.address);
    let bearer = format!("Authorization: Bearer {ALL}");
    // First what reads, as long as there is something to read.
    for more in [&["--include-method", "GET"][..], &[]] {
        let output = Command::new(&program)
            .arg("--config-file")
            .arg(&file)
            .args(["run", &url, "--header", &bearer, "--seed", "1"])
            .args(["--max-examples", EXAMPLES, "--rate-limit", "48/s"])
            .args([
                "--generation-database",
                "none",
                "--no-color",
                "--continue-on-failure",
            ])
            .args(more)
            .current_dir(folder.path())
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{errors}");
        println!("{said}");
    }
    shop.process.stop().await;
}
