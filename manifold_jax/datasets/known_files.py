"""Checksums by which the files of known data sets are told from each other, whatever they are called.

MD5 sums of the gzipped files are those that torchvision records for MNIST, Fashion-MNIST and KMNIST, and
numpyvision (as Deeplearning4j) for EMNIST; those of contents were taken from the files themselves. A
row has the sums of images and labels; a second row of the same files has those of their contents.
"""

from __future__ import annotations

_TABLE = """
MNIST         train                 f68b3c2dcbeaaa9fbdd348bbdeb94873 d53e105ee54ea40749a09fcbcd1e9432
MNIST         train                 6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624
MNIST         t10k                  9fb629c4189551a2d022fa330f9573f3 ec29112dd5afa0611ce80d1b7f02629c
MNIST         t10k                  2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637
Fashion-MNIST train                 8d4fb7e6c68d591d4c3dfef9ec88bf0d 25c81989df183df01b3e8a0aad5dffbe
Fashion-MNIST train                 f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9
Fashion-MNIST t10k                  bef4ecab320f06d8554ea6380940ec79 bb300cfdad3c16e7a12a480ee83cd310
Fashion-MNIST t10k                  8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965
KMNIST        train                 bdb82020997e1d708af4cf47b453dcf7 e144d726b3acfaa3e44228e80efcd344
KMNIST        t10k                  5c965bf0a639b31b8f53240b1b52f4d7 7320c461ea6c1c855c0b718fb2a4b134
EMNIST        emnist-byclass-train  712dda0bd6f00690f32236ae4325c377 ee299a3ee5faf5c31e9406763eae7e43
EMNIST        emnist-byclass-test   1435209e34070a9002867a9ab50160d7 7a0f934bd176c798ecba96b36fda6657
EMNIST        emnist-bymerge-train  4a792d4df261d7e1ba27979573bf53f3 491be69ef99e1ab1f5b7f9ccc908bb26
EMNIST        emnist-bymerge-test   8eb5d34c91f1759a55831c37ec2a283f c13f4cd5211cdba1b8fa992dae2be992
EMNIST        emnist-balanced-train 4041b0d6f15785d3fa35263901b5496b 7a35cc7b2b7ee7671eddf028570fbd20
EMNIST        emnist-balanced-test  6818d20fe2ce1880476f747bbc80b22b acd3694070dcbf620e36670519d4b32f
EMNIST        emnist-letters-train  8795078f199c478165fe18db82625747 c16de4f1848ddcdddd39ab65d2a7be52
EMNIST        emnist-letters-test   382093a19703f68edac6d01b8dfdfcad d4108920cd86601ec7689a97f2de7f59
EMNIST        emnist-digits-train   d2662ecdc47895a6bbfce25de9e9a677 2223fcfee618ac9c89ef20b6e48bcf9e
EMNIST        emnist-digits-test    a159b8b3bd6ab4ed4793c1cb71a2f5cc 8afde66ea51d865689083ba6bb779fac
EMNIST        emnist-mnist-train    3663598a39195d030895b6304abb5065 6c092f03c9bb63e678f80f8bc605fe37
EMNIST        emnist-mnist-test     fb51b6430fc4dd67deaada1bf25d4524 ae7f6be798a9a5d5f2bd32e078a402dd
"""

_ROWS = [
    (title, f"{part}-{kind}-ubyte", checksum)
    for title, part, *checksums in map(str.split, _TABLE.strip().split("\n"))
    for kind, checksum in zip(("images-idx3", "labels-idx1"), checksums, strict=True)
]

PUBLISHED = {(title, name): checksum for title, name, checksum in reversed(_ROWS)}
"""Data set and name of a file to the MD5 sum of the file as it is published, gzipped, which comes first."""

KNOWN = {checksum: (title, name) for title, name, checksum in _ROWS}
"""MD5 sum of a published file, or of its content, to the data set and the name of the file."""
