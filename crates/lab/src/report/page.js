// Boxes of the legend show and hide a strategy in every chart.
for (const box of document.querySelectorAll('fieldset input')) {
  box.addEventListener('change', () => {
    for (const series of document.querySelectorAll('figure .n' + box.value)) series.classList.toggle('off', !box.checked);
  });
}
