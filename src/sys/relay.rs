//! Descriptors that go from one process to another, and a FUSE connection that changes hands.

use std::io::{IoSlice, IoSliceMut, Write as _};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::{fs, io};

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    recvmsg, sendmsg, socketpair,
};

/// Most descriptors that one message brings.
const FDS_MAX: usize = 4;

/// Two ends of a connection that keeps messages apart (`SOCK_SEQPACKET`). What was sent stays when the
/// sender dies, descriptors included.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        flags,
    )?)
}

/// Sends one message with these descriptors; waits while the other side has too many unread.
pub fn send_message(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL;
    loop {
        let parts = [IoSlice::new(bytes)];
        match sendmsg::<UnixAddr>(socket.as_raw_fd(), &parts, rights, flags, None) {
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one message and its descriptors; `None` when the other side is gone. A message longer than
/// `buf` is an error, and so is that there is none yet (`EAGAIN`) unless it `waits`.
pub fn receive_message(
    socket: BorrowedFd<'_>,
    buf: &mut [u8],
    waits: bool,
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = cmsg_space!([RawFd; FDS_MAX]);
    let mut flags = MsgFlags::MSG_CMSG_CLOEXEC;
    flags.set(MsgFlags::MSG_DONTWAIT, !waits);
    let (bytes, flags, fds) = loop {
        let mut parts = [IoSliceMut::new(buf)];
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Ok(message) => {
                let mut fds = Vec::new();
                for part in message.cmsgs().map_err(io::Error::from)? {
                    if let ControlMessageOwned::ScmRights(raw) = part {
                        // SAFETY: the kernel just made these descriptors for us alone.
                        fds.extend(raw.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
                    }
                }
                break (message.bytes, message.flags, fds);
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    };
    if bytes == 0 {
        return Ok(None);
    }
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        // Cut short, or no descriptor was free.
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok(Some((bytes, fds)))
}

/// A program that is started next inherits this descriptor.
pub fn keep_over_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: plain call on an open descriptor.
    let rc = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Takes a descriptor that this process inherited under `number`; `None` where it is not open. To be
/// called once for a number, before anything else is opened.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: plain call; a number that is not open gives EBADF.
    let rc = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: it is open, and whoever started this process left it to us.
    (rc >= 0).then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Puts what `live` refers to under the number of a descriptor that its owner goes on using: dup3(2).
pub fn replace_fd(live: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    // SAFETY: the number stays open all the time and stays its owner's; only what it refers to changes.
    let rc = unsafe { libc::dup3(live.as_raw_fd(), number, libc::O_CLOEXEC) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `FUSE_INIT` of a kernel (`include/uapi/linux/fuse.h`, `struct fuse_init_in`), as one that is long
/// running would send it again: for a library that insists to shake hands first.
pub fn fuse_init_again(minor: u32, max_readahead: u32, flags: u64) -> [u8; 104] {
    const FUSE_INIT: u32 = 26;
    // The second word of flags counts.
    const FUSE_INIT_EXT: u64 = 1 << 30;
    let flags = flags | FUSE_INIT_EXT;
    let mut bytes = [0u8; 104];
    let mut put = |at: usize, word: u32| bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    // struct fuse_in_header: len, opcode, unique (64), nodeid (64), uid, gid, pid, padding.
    put(0, 104);
    put(4, FUSE_INIT);
    put(
        if cfg!(target_endian = "little") {
            8
        } else {
            12
        },
        1,
    );
    // struct fuse_init_in: major, minor, max_readahead, flags, flags2.
    put(40, 7);
    put(44, minor);
    put(48, max_readahead);
    put(52, flags as u32);
    put(56, (flags >> 32) as u32);
    bytes
}

/// Asks the kernel to send every request again that was read and not answered
/// (`FUSE_NOTIFY_RESEND`, Linux 6.9).
pub fn fuse_resend(device: BorrowedFd<'_>) -> io::Result<()> {
    const FUSE_NOTIFY_RESEND: i32 = 7;
    fuse_notify(device, FUSE_NOTIFY_RESEND)
}

/// Has the kernel ask about every name that it knows, or knows not to exist, when it is used next
/// (`FUSE_NOTIFY_INC_EPOCH`, Linux 6.16; `EINVAL` before). It takes no lock for that.
pub fn fuse_doubt_names(device: BorrowedFd<'_>) -> io::Result<()> {
    const FUSE_NOTIFY_INC_EPOCH: i32 = 8;
    fuse_notify(device, FUSE_NOTIFY_INC_EPOCH)
}

/// A notification that says nothing but what it is.
fn fuse_notify(device: BorrowedFd<'_>, code: i32) -> io::Result<()> {
    let mut bytes = [0u8; 16];
    // struct fuse_out_header: len, error (of a notification its code), unique (0).
    bytes[0..4].copy_from_slice(&16u32.to_ne_bytes());
    bytes[4..8].copy_from_slice(&code.to_ne_bytes());
    let mut device = fs::File::from(device.try_clone_to_owned()?);
    device.write_all(&bytes)
}
