"Colours as a reader sees them."


def contrast(a: str, b: str) -> float:
    "WCAG's contrast of two CSS colours."

    def light(c):
        rgb = [float(x) / 255 for x in c[c.index("(") + 1 : -1].split(",")[:3]]
        return sum(
            w * (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4)
            for w, x in zip((0.2126, 0.7152, 0.0722), rgb)
        )

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)
