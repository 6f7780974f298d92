//! Slots of a directory as files that tests can damage.

use kafscale_storage_engine::object_store::local::LocalStore;
use kafscale_storage_engine::object_store::ObjectStore;
use std::path::Path;

/// Takes all slots out of their packs: each is a file then, as older versions wrote them. No broker may be running.
pub fn unpack_slots(objects: &Path) {
    let objects = objects.to_owned();
    let executor = glommio::LocalExecutorBuilder::default();
    let unpacked = executor.spawn(move || async move { unpack(&objects).await });
    unpacked.unwrap().join().unwrap();
}

async fn unpack(objects: &Path) {
    let store = LocalStore::open(objects).unwrap();
    for slot in store.list("default/_wal/", None, usize::MAX).await.unwrap().objects {
        let path = objects.join(&slot.key);
        if !path.exists() {
            let content = store.get_range(&slot.key, 0..u64::MAX).await.unwrap();
            store.delete(&[slot.key]).await.unwrap();
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}
