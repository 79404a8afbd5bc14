"""Charts of the docs."""

from xml.etree import ElementTree as ET

from benchmarks.charts import Line, line_chart

_SVG = "{http://www.w3.org/2000/svg}"


def test_a_chart_has_each_line_within_its_frame() -> None:
    lines = [Line("a & b", [(0, 0), (97.5, 150)]), Line("c", [(1, 1), (50, 75)])]
    root = ET.fromstring(  # noqa: S314 - it was made here
        line_chart(lines, x="seconds", y="jobs", marks=[("GPU 0 fails", 12)])
    )
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    drawn = [each.attrib["d"] for each in root.iter(f"{_SVG}path") if "c" in each.attrib["class"]]
    places = [tuple(map(float, place.split())) for place in drawn[0][1:].split("L")]
    assert all(0 < across < width and 0 < down < height for across, down in places)
    words = [each.text for each in root.iter(f"{_SVG}text")]
    assert {"a & b", "c", "seconds", "jobs", "GPU 0 fails", "100", "200"} <= {*words}
    style = root.find(f"{_SVG}style")
    assert style is not None
    assert "prefers-color-scheme:dark" in str(style.text)
