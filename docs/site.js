// What scrolls sideways is within the keyboard's reach.
addEventListener("load", () => {
  const wide = ".md-typeset__scrollwrap, .output, math[display='block']";
  for (const part of document.querySelectorAll(wide)) part.tabIndex = 0;
});
// Draws the figures of a page when they come near the window, from data that lie in the page.
// plotly's script is the site's own copy. Without scripts the pictures stay.
(() => {
  const figures = document.querySelectorAll("[data-figure]");
  if (!figures.length) return;
  const unpack = async (text) => {
    const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(plain).text());
  };
  let loaded;
  const plotly = () => loaded ??= new Promise((resolve) => {
    const script = document.createElement("script");
    script.src = new URL("../plotly.min.js", location.href);
    script.onload = resolve;
    document.head.append(script);
  });
  const draw = async (place) => {
    const figure = await unpack(place.dataset.figure);
    await plotly();
    place.textContent = "";
    const { data, layout, frames } = figure;
    Plotly.newPlot(place, { data, layout, frames, config: { responsive: true, displaylogo: false } });
  };
  const seen = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
    if (!isIntersecting) return;
    seen.unobserve(target);
    draw(target);
  }), { rootMargin: "600px" });
  figures.forEach((each) => seen.observe(each));
})();
