use crate::{FailingDisk, Faults};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};

fn disk() -> Option<(tempfile::TempDir, FailingDisk)> {
    let directory = tempfile::tempdir().unwrap();
    match FailingDisk::mount(directory.path()) {
        Ok(disk) => Some((directory, disk)),
        Err(error) => {
            println!("left out: no FUSE file system can be mounted here: {error}");
            None
        }
    }
}

#[test]
fn a_sound_disk_is_a_disk() {
    let Some((_directory, disk)) = disk() else { return };
    let place = disk.path().join("a/b");
    fs::create_dir_all(&place).unwrap();
    fs::write(place.join("one"), "first").unwrap();
    fs::rename(place.join("one"), disk.path().join("two")).unwrap();
    File::options()
        .append(true)
        .open(disk.path().join("two"))
        .unwrap()
        .write_all(b" and second")
        .unwrap();
    assert_eq!(fs::read_to_string(disk.path().join("two")).unwrap(), "first and second");
    let names: Vec<_> = fs::read_dir(disk.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    fs::remove_file(disk.path().join("two")).unwrap();
    assert_eq!(
        fs::metadata(disk.path().join("two")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(disk.counts(), crate::Counts::default());
}

#[test]
fn a_full_disk_takes_what_lies_inside_of_files_alone_until_there_is_room() {
    let Some((_directory, disk)) = disk() else { return };
    let path = disk.path().join("file");
    fs::write(&path, vec![1; 10_000]).unwrap();
    disk.fill(1_000);
    let mut file = File::options().write(true).open(&path).unwrap();
    file.write_all(&[2; 10_000]).unwrap();
    file.write_all(&[3; 1_000]).unwrap();
    assert_eq!(file.write_all(&[4; 1]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(
        fs::write(disk.path().join("new"), "x").unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    let free = rustix::fs::statvfs(disk.path()).unwrap().f_bavail;
    assert_eq!(free, 0);
    file.set_len(5_000).unwrap();
    fs::write(disk.path().join("new"), vec![5; 6_000]).unwrap();
    disk.mend();
    fs::write(disk.path().join("newer"), vec![6; 60_000]).unwrap();
    assert_eq!(disk.counts().full, 2);
}

#[test]
fn reads_writes_and_syncs_fail_each_on_its_own() {
    let Some((_directory, disk)) = disk() else { return };
    let path = disk.path().join("file");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"kept").unwrap();
    disk.set(Faults {
        syncs: true,
        ..Faults::default()
    });
    file.write_all(b" too").unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(5));
    disk.set(Faults {
        writes: true,
        ..Faults::default()
    });
    file.sync_all().unwrap();
    assert_eq!(file.write_all(b"lost").unwrap_err().raw_os_error(), Some(5));
    disk.mend();
    assert_eq!(fs::read(&path).unwrap(), b"kept too");
    // What the page cache has is not read from the disk.
    file.set_len(0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let other = disk.path().join("other");
    fs::write(&other, vec![7; 100_000]).unwrap();
    disk.set(Faults {
        reads: true,
        ..Faults::default()
    });
    let mut bytes = Vec::new();
    let read = File::open(&other).and_then(|mut file| {
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        file.read_to_end(&mut bytes)
    });
    assert_eq!(read.unwrap_err().raw_os_error(), Some(5));
    let counts = disk.counts();
    assert!(
        counts.syncs == 1 && counts.writes == 1 && counts.reads >= 1,
        "{counts:?}"
    );
}
