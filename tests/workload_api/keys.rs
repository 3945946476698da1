use std::time::Duration;

use common::tls;
use harness::{
    Stack,
    fake_workload_api::{Fake, Genuine},
};

#[tokio::test]
async fn key_of_another_certificate_is_refused_p181() {
    let (stack, other) = (Stack::new().await, Stack::new().await);
    let genuine = Genuine::of(&stack).await;
    let mut mixed = genuine.clone();
    let key = &Genuine::of(&other).await.x509.svids[0].x509_svid_key;
    mixed.x509.svids[0].x509_svid_key = key.clone();
    for (answer, fits) in [(&genuine, true), (&mixed, false)] {
        let fake = Fake::new(answer);
        let api = fake.workload_api(Duration::from_secs(5));
        let served = match api.x509().await {
            Ok(identity) => tls::server(&identity.x509).is_ok(),
            Err(_) => false,
        };
        assert_eq!(served, fits);
    }
}
