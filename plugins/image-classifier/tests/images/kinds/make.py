"""Makes the pictures of this folder, and what Pillow sees in them (expected.json). Needs Pillow alone."""

import json
import pathlib

from PIL import Image, ImageCms, ImageOps

HERE = pathlib.Path(__file__).parent
SIDE = 32
COLOURS = [(200, 30, 60), (20, 180, 90), (40, 70, 210), (230, 220, 40)]
CENTRES = [(8, 8), (24, 8), (8, 24), (24, 24)]


def quarters(mode="RGB", colours=COLOURS):
    picture = Image.new(mode, (SIDE, SIDE))
    for (x, y), colour in zip(CENTRES, colours):
        picture.paste(colour, (x - 8, y - 8, x + 8, y + 8))
    return picture


def ycck(path):
    """Adobe's YCCK: Pillow writes four channels as they are, so the marker is told what they are."""
    stored = quarters("RGB").convert("YCbCr").split() + (Image.new("L", (SIDE, SIDE), 200),)
    Image.merge("CMYK", [ImageOps.invert(channel) for channel in stored]).save(path, quality=95)
    file = bytearray(path.read_bytes())
    file[file.index(b"Adobe") + 11] = 2
    path.write_bytes(file)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def upright_rgb(path):
    picture = ImageOps.exif_transpose(Image.open(path))
    if picture.mode == "I;16":
        return picture.point(lambda value: value / 257).convert("L").convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


photo, grey = quarters(), quarters("L", [20, 90, 160, 230])
photo.save(HERE / "baseline.jpg", quality=95, subsampling="4:4:4")
photo.save(HERE / "halved-colour.jpg", quality=95, subsampling="4:2:2")
photo.save(HERE / "quartered-colour.jpg", quality=95, subsampling="4:2:0", restart_marker_rows=1)
photo.save(HERE / "progressive.jpg", quality=95, progressive=True)
photo.save(HERE / "rgb.jpg", quality=95, keep_rgb=True)
grey.save(HERE / "grey.jpg", quality=95)
grey.save(HERE / "grey-progressive.jpg", quality=95, progressive=True)
quarters("CMYK", [(200, 30, 60, 0), (20, 180, 90, 60), (40, 70, 210, 120), (0, 0, 0, 200)]).save(HERE / "cmyk.jpg", quality=95)
ycck(HERE / "ycck.jpg")
# sRGB with red and blue swapped: whoever applies the profile sees other colours.
profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
profile = profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
photo.save(HERE / "profile.jpg", quality=95, icc_profile=profile)
photo.save(HERE / "profile.png", icc_profile=profile)

for orientation in range(1, 9):
    photo.save(HERE / f"orientation-{orientation}.jpg", quality=95, subsampling="4:4:4", exif=exif(orientation))
photo.save(HERE / "orientation-6.png", exif=exif(6))
photo.save(HERE / "orientation-6.webp", lossless=True, exif=exif(6))
photo.save(HERE / "orientation-8.webp", quality=95, exif=exif(8))

clear = [(200, 30, 60, 255), (20, 180, 90, 128), (40, 70, 210, 0), (230, 220, 40, 30)]
quarters("RGBA", clear).save(HERE / "transparent.png")
quarters("RGBA", clear).save(HERE / "transparent.webp", lossless=True)
quarters("RGBA", clear).save(HERE / "transparent-lossy.webp", quality=95, alpha_quality=100)
quarters("LA", [(20, 255), (90, 128), (160, 0), (230, 30)]).save(HERE / "grey-transparent.png")
quarters("I;16", [0, 21845, 43690, 65535]).save(HERE / "grey-16.png")
grey.save(HERE / "grey.png")
quarters("1", [0, 1, 1, 0]).save(HERE / "bilevel.png")
palette = photo.quantize(4)
palette.save(HERE / "palette.png", bits=8)
palette.save(HERE / "palette-2-bit.png", bits=2)
palette.save(HERE / "palette-transparent.png", transparency=palette.getpixel((24, 24)))
palette.save(HERE / "palette-transparent.gif", transparency=palette.getpixel((24, 24)))
palette.save(HERE / "palette.bmp")
photo.save(HERE / "photo.bmp")

frames = [photo, Image.new("RGB", photo.size, "black")]
for name, options in [("gif", {}), ("png", {}), ("webp", {"lossless": True})]:
    frames[0].save(HERE / f"animated.{name}", save_all=True, append_images=frames[1:], duration=100, **options)
frames[0].save(HERE / "animated-lossy.webp", save_all=True, append_images=frames[1:], duration=100, quality=95)

expected = {}
for path in sorted(HERE.iterdir()):
    if path.suffix not in (".py", ".json"):
        picture = upright_rgb(path)
        expected[path.name] = [list(picture.getpixel(centre)) for centre in CENTRES]
text = ",\n".join(f"  {json.dumps(name)}: {json.dumps(colours)}" for name, colours in expected.items())
(HERE / "expected.json").write_text("{\n" + text + "\n}\n")
