//! `tidegate demo`: what a stranger sees in the first five minutes.

use std::collections::BTreeMap;
use std::fs;

use tidegate_tests::process::{free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{Tidegate, client};

#[tokio::test]
async fn the_demo_serves_a_page_and_follows_an_edit() {
    let port = free_port();
    let mut demo = Tidegate::demo(port).await;
    let page = client::get(local(port), "localhost", "/productpage").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
    assert!(page.text().contains("<html") && !page.text().contains("src=\"http"), "a page without outside assets");

    // What it prints is what works.
    let banner = wait::until("the banner", PATIENCE, || async {
        let banner = demo.stdout();
        banner.contains("jason").then_some(banner)
    })
    .await;
    for promised in [format!("http://localhost:{port}"), "explain".into(), "curl".into(), demo.admin.to_string()] {
        assert!(banner.contains(&promised), "{promised} is not in\n{banner}");
    }

    let reviews = |headers: &'static [(&str, &str)]| async move {
        let answer = client::send(local(port), "GET", "localhost", "/reviews/0", headers, "").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = answer.text();
        ["v1", "v2", "v3"].into_iter().find(|version| text.contains(version)).unwrap_or("none")
    };
    for _ in 0..10 {
        assert_eq!(reviews(&[("end-user", "jason")]).await, "v2");
    }
    // Everybody to one version: an edit of the file that the banner names.
    let file = demo.home().join("demo/virtual-service.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("subset: v1", "subset: v3")).unwrap();
    wait::until("ten answers of v3", PATIENCE, || async {
        let mut found = BTreeMap::new();
        for _ in 0..10 {
            *found.entry(reviews(&[]).await).or_insert(0) += 1;
        }
        (found.get("v3") == Some(&10)).then_some(())
    })
    .await;
    demo.signal("INT").await;
    assert!(demo.exited().await.success(), "{}", demo.log());
}
