use super::*;

const FILE: &str = "/file";

fn byte(disk: &TestDisk) -> Option<u8> {
    let mut byte = [0];
    let file = disk.open(Path::new(FILE), false).ok()?;
    (file.read_at(&mut byte, 0).unwrap() == 1).then_some(byte[0])
}

fn synced(disk: &TestDisk) -> TestFile {
    let file = disk.create(Path::new(FILE), false).unwrap();
    file.write_at(&[1; 4096], 0).unwrap();
    file.sync().unwrap();
    disk.sync_directory(Path::new("/")).unwrap();
    file
}

#[test]
fn what_is_synced_survives_and_what_is_not_may() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = TestDisk::new(seed);
        let file = synced(&disk);
        file.write_at(&[2; 4096], 0).unwrap();
        seen.insert(byte(&disk.after_power_cut()));
        file.sync().unwrap();
        assert_eq!(byte(&disk.after_power_cut()), Some(2));
    }
    assert_eq!(seen, [Some(1), Some(2)].into());
}

#[test]
fn each_descriptor_reports_a_failed_write_once_and_the_page_cache_lies() {
    let disk = TestDisk::new(1);
    let first = synced(&disk);
    let second = disk.open(Path::new(FILE), false).unwrap();
    disk.set_faults(Faults {
        writes_left: Some(0),
        ..Faults::default()
    });
    first.write_at(&[2; 4096], 0).unwrap();
    disk.write_back_some();
    disk.write_back_some();
    disk.write_back_some();
    disk.set_faults(Faults::default());
    assert!(first.sync().is_err() && second.sync().is_err());
    assert!(first.sync().is_ok() && second.sync().is_ok());
    assert!(disk.open(Path::new(FILE), false).unwrap().sync().is_ok());
    assert_eq!(byte(&disk), Some(2), "the page is clean and was not written");
    assert_eq!(byte(&disk.after_power_cut()), Some(1));
    first.drop_cache();
    assert_eq!(byte(&disk), Some(1));
}

#[test]
fn writers_that_share_a_descriptor_share_its_one_report() {
    let disk = TestDisk::new(1).with_one_descriptor_per_file();
    let first = synced(&disk);
    let second = disk.open(Path::new(FILE), false).unwrap();
    disk.set_faults(Faults {
        writes_left: Some(0),
        ..Faults::default()
    });
    second.write_at(&[2; 4096], 0).unwrap();
    assert!(first.sync().is_err());
    assert!(second.sync().is_ok(), "it has been reported");
}

#[test]
fn a_full_disk_has_no_room_but_for_what_was_set_aside() {
    let disk = TestDisk::new(1);
    let file = synced(&disk);
    disk.set_capacity(3 * 4096);
    file.reserve(2 * 4096).unwrap();
    assert_eq!(disk.free(), 4096);
    file.write_at(&[3; 4096], 4096).unwrap();
    let full = file.write_at(&[3; 8192], 8192).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    file.set_len(4096).unwrap();
    assert_eq!(disk.free(), 8192);
}

#[test]
fn a_name_is_durable_once_its_directory_is_synced() {
    let gone = (0..50).filter(|seed| {
        let disk = TestDisk::new(*seed);
        disk.make_directories(Path::new("/a/b")).unwrap();
        disk.create(Path::new("/a/b/c"), false).unwrap();
        let may_be_gone = disk.after_power_cut().kind(Path::new("/a/b/c")).is_err();
        for directory in ["/", "/a", "/a/b"] {
            disk.sync_directory(Path::new(directory)).unwrap();
        }
        assert_eq!(disk.after_power_cut().kind(Path::new("/a/b/c")).unwrap(), Kind::File(0));
        may_be_gone
    });
    assert!(gone.count() > 0);
}
