"""A real browser in tests: Chromium without a window, driven over WebDriver, and axe-core to judge its pages.

Debian's packages `chromium` and `chromium-driver` bring it; without them the tests are skipped by that name.
"""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any

from tests.real_parts import install
from tests.support.parts import missing, require

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--lang=en",
)
PHONE = (390, 844)
DESKTOP = (1280, 860)
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


class Chromium:
    """One browser with a profile of its own; `scripts` False turns JavaScript off. All methods block."""

    def __init__(self, profile: Path, *, scripts: bool = True, flags: tuple[str, ...] = ()) -> None:
        require("axe")
        browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if browser is None or driver is None:
            missing("chromium (apt-get install chromium chromium-driver)")
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        if not scripts:
            options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.driver.set_page_load_timeout(30)

    def close(self) -> None:
        self.driver.quit()

    def look(self, size: tuple[int, int], scheme: str) -> None:
        """Be a screen of this size, of someone who likes `light` or `dark`."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def get(self, url: str) -> None:
        self.driver.get(url)

    def find(self, selector: str) -> Any:
        """The element of this CSS selector; an error where there is none."""
        return self.driver.find_element("css selector", selector)

    def press(self, selector: str) -> None:
        """Press a button, and be on the page that it leads to."""
        from selenium.webdriver.support.wait import WebDriverWait

        button = self.find(selector)
        button.click()
        wait = WebDriverWait(self.driver, 20, poll_frequency=0.05)
        wait.until(lambda _: _gone(button))
        wait.until(lambda driver: driver.execute_script("return document.readyState") == "complete")

    @property
    def text(self) -> str:
        """What is to be read on the page."""
        return str(self.find("body").text)

    def problems(self) -> list[str]:
        """What axe-core finds wrong with the page as it stands, and what is wider than the screen."""
        self.driver.execute_script((install.package_folder("axe", "axe-core") / "axe.min.js").read_text())
        found = self.driver.execute_async_script(
            "const [only, done] = arguments; axe.run({runOnly: only}).then(done, e => done({violations: [String(e)]}))",
            _RULES,
        )
        wide = self.driver.execute_script("return document.documentElement.scrollWidth > innerWidth")
        said = [
            f"{one['id']}: {[node['html'] for node in one['nodes']]}" if isinstance(one, dict) else str(one)
            for one in found["violations"]
        ]
        return said + (["wider than the screen"] if wide else [])

    def complaints(self) -> list[str]:
        """What the browser itself has said: a violated policy, a script that fails, a file that is not there."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page, down to its end."""
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(shot["data"]))


def _gone(element: Any) -> bool:
    """Whether the page of this element was left. In the midst of a change of pages the driver has no proper answer."""
    from selenium.common.exceptions import StaleElementReferenceException, WebDriverException

    try:
        element.is_enabled()
    except StaleElementReferenceException:
        return True
    except WebDriverException as error:
        if "does not belong to the document" not in str(error):
            raise
        return True
    return False
